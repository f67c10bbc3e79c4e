"""Specs, settings, errors, references, addresses, users, configs: what needs no kernel."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import pytest_containers as pc
from pytest_containers import errors, settings
from pytest_containers.images import reference
from pytest_containers.runtime import oci
from pytest_containers.runtime.launcher import identity
from pytest_containers.runtime.messages import FaultError
from pytest_containers.runtime.network import addresses
from pytest_containers.runtime.plan import users
from pytest_containers.spec import signal_number

KINDS = [
    value for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.ContainersError)
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_errors_keep_their_data_when_pickled(kind: type[errors.ContainersError]) -> None:
    error = pickle.loads(pickle.dumps(kind("one sentence", exit_code=3)))
    assert type(error) is kind
    assert str(error) == "one sentence"
    assert error.exit_code == 3
    with pytest.raises(AttributeError):
        _ = error.nosuch


def test_public_names_exist_and_load_lazily() -> None:
    for name in pc.__all__:
        assert getattr(pc, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = pc.nosuch  # type: ignore[attr-defined]
    assert set(pc.__all__) <= set(dir(pc))


@pytest.mark.parametrize(
    ("text", "expected"),
    [(80, (80, "tcp", None)), ("80", (80, "tcp", None)), ("53/udp", (53, "udp", None)),
     ("18000:8000", (8000, "tcp", 18000)), ("18000:53/udp", (53, "udp", 18000))],
)  # fmt: skip
def test_ports(text: int | str, expected: tuple[int, str, int | None]) -> None:
    port = pc.Port.parse(text)
    assert (port.number, port.protocol, port.host) == expected


@given(st.text(max_size=12))
def test_any_text_is_a_port_or_a_clear_error(text: str) -> None:
    try:
        port = pc.Port.parse(text)
    except errors.SpecError as error:
        assert text in str(error) or repr(text) in str(error) or "whole number" in str(error)
    else:
        assert 0 < port.number < 65536


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("HUP", 1),
        ("SIGTERM", 15),
        (9, 9),
        ("9", 9),
        ("SIGRTMIN+3", 37),
        ("sigrtmax-1", 63),
        (None, 15),
    ],
)
def test_signals(value: str | int | None, number: int) -> None:
    assert signal_number(value) == number


@pytest.mark.parametrize(
    "value", ["NOSUCH", 0, 999, "SIG", "RTMIN+x", "RTMIN+99", "²", "9+1", "A-B-C"]
)
def test_signals_that_do_not_exist(value: str | int) -> None:
    with pytest.raises(errors.SpecError, match="does not exist"):
        signal_number(value)


def test_settings_say_where_a_value_came_from() -> None:
    environ = {"PYTEST_CONTAINERS_LOG_LINES": "7", "PYTEST_CONTAINERS_IMAGE": "a=b,c=d"}
    found = settings.Settings({}, {"log_lines": "5"}, environ)
    assert found.get(settings.LOG_LINES) == 7
    assert found.image_for("c") == "d"
    assert settings.Settings({"log_lines": "9"}, {}, environ).get(settings.LOG_LINES) == 9
    weak = settings.Settings({}, {"ready_timeout": "5"}, {})
    assert weak.get(settings.READY_TIMEOUT, 3) == 3
    assert weak.get(settings.READY_TIMEOUT) == 5.0
    assert settings.Settings({}, {}, {}).get(settings.READY_TIMEOUT) == 60.0
    with pytest.raises(
        errors.SettingsError, match="PYTEST_CONTAINERS_LOG_LINES: 'x' is not usable"
    ):
        settings.Settings({}, {}, {"PYTEST_CONTAINERS_LOG_LINES": "x"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("redis", "docker.io/library/redis:latest"), ("redis:7", "docker.io/library/redis:7"),
     ("a/b", "docker.io/a/b:latest"), ("localhost/a", "localhost/a:latest"),
     ("127.0.0.1:5000/app:1", "127.0.0.1:5000/app:1")],
)  # fmt: skip
def test_references(text: str, expected: str) -> None:
    assert str(reference.parse(text)) == expected


@given(st.text(max_size=60))
@example("rootfs")
@example("library/a/b")
def test_any_text_is_a_reference_or_a_clear_error(text: str) -> None:
    try:
        found = reference.parse(text)
    except errors.ImageError as error:
        assert str(error)
    else:
        if isinstance(found, reference.Reference):
            assert reference.parse(str(found)) == found
            assert reference.parse(found.familiar) == found


@given(st.integers(1, 1022), st.integers(0, 255))
def test_addresses_never_meet(number: int, octet: int) -> None:
    run = addresses.RunAddresses(octet, b"12345")
    own = set(addresses.block_addresses(number))
    assert not own & {addresses.GATEWAY_LOW, addresses.HOST_LOW}
    assert not own & set(addresses.block_addresses(number % 1022 + 1))
    assert {run.ip4(low).split(".")[1] for low in own} == {str(octet)}


def test_prefixes_avoid_what_the_host_has() -> None:
    taken = [(10 << 24 | 64 << 16, 16), (10 << 24 | 70 << 16, 24), (0, 0)]
    found = list(addresses.free_prefixes(taken, 0))
    assert 64 not in found and 70 not in found
    assert len(found) == 190
    assert next(addresses.free_prefixes([(10 << 24, 8)], 3)) == 67


def test_users_of_a_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n1000:x:0:0::/:/bin/sh\nbroken\n"
    )
    (tmp_path / "etc" / "group").write_text("web:x:34:\nextra:x:50:web,other\n")
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert users.resolve(fd, "") == users.User(0, 0, (), "/root")
        assert users.resolve(fd, "web") == users.User(33, 34, (50,), "/srv")
        assert users.resolve(fd, "web:extra") == users.User(33, 50, (), "/srv")
        assert users.resolve(fd, "1000") == users.User(1000, 0, (), "/")
        assert users.resolve(fd, "33:7", ["extra"]) == users.User(33, 7, (50,), "/srv")
        for wrong in ("nosuch", "web:nosuch", "4294967295", "9" * 30, "²", "0:²"):
            with pytest.raises(FaultError):
                users.resolve(fd, wrong)
    finally:
        os.close(fd)


def test_users_do_not_come_from_outside_of_the_root(tmp_path: Path) -> None:
    # CVE-2024-9676: a link, or something that never ends, in the place of passwd
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (tmp_path / "passwd").write_text("outside:x:5:5::/:/bin/sh\n")
    (root / "etc" / "passwd").symlink_to(tmp_path / "passwd")
    os.mkfifo(root / "etc" / "group")
    fd = os.open(root, os.O_PATH)
    try:
        with pytest.raises(FaultError, match="'outside' is not in"):
            users.resolve(fd, "outside")
        with pytest.raises(FaultError, match="group 'x' is not in"):
            users.resolve(fd, "0:x")
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"hooks": {"prestart": [{}]}}, "'hooks' is not supported"),
     ({"process": {}}, "no command"),
     ({"process": {"args": ["a"], "oomScoreAdj": 3}}, "'oomScoreAdj'"),
     ({"process": {"args": ["a"], "cwd": "x"}}, "not absolute"),
     ({"linux": {"seccomp": {"defaultAction": "x"}}}, "'seccomp'"),
     ({"linux": {"namespaces": [{"type": "time"}]}}, "namespaces"),
     ({"linux": {"namespaces": [{"type": "pid", "path": "/x"}]}}, "namespaces"),
     ({"mounts": [{"destination": "x"}]}, "not an absolute path"),
     ({"mounts": [{"destination": "/x", "type": "nfs"}]}, "'nfs' is not supported")],
)  # fmt: skip
def test_configs_that_are_refused_by_name(change: dict[str, object], words: str) -> None:
    config = {"process": {"args": ["true"], "cwd": "/"}, **change}
    with pytest.raises(FaultError, match=words):
        oci.parse(json.dumps(config).encode())


def test_identity_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "subuid"
    path.write_text("other:1:70000\n1234:500:5\n1234:200000:65536\nbad line\n")
    assert identity.subordinate(str(path), 1234) == (200000, 65536)
    assert identity.subordinate(str(path), 4321) is None
    assert identity.subordinate(str(tmp_path / "nosuch"), 1234) is None
