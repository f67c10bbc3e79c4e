"""Specs, settings, errors, references, addresses, users, configs: what needs no kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import pytest_containers as pc
from pytest_containers.cli import options
from pytest_containers.cli.main import parser as command_line
from pytest_containers.images import reference
from pytest_containers.model import errors, settings
from pytest_containers.model.spec import signal_number
from pytest_containers.runtime import identity
from pytest_containers.runtime.network import addresses
from pytest_containers.runtime.plan import users
from pytest_containers.runtime.wire.faults import FaultError


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


def test_the_table_of_settings_is_whole() -> None:
    rows = [value for value in vars(settings).values() if isinstance(value, settings.Setting)]
    assert list(settings.ALL) == sorted(rows, key=settings.ALL.index)
    for setting in rows:
        assert setting.help
        assert "%" not in setting.help_text, "argparse and pytest would expand it"
        default = setting.default
        if default not in (None, (), "", False):
            assert setting.parse(f"{default}") == default


def test_commands_have_options_of_the_table() -> None:
    pull = command_line().parse_args(["pull", "--registry-mirror", "a=b", "--hub-prefix=c/", "x"])
    chosen = options.engine_options(pull)["registries"]
    assert (dict(chosen.mirrors), chosen.hub_prefix) == ({"a": ["b"]}, "c/")
    for command in (["run", "--insecure-registry=/", "x"], ["build", "--insecure-registry=/"]):
        with pytest.raises(errors.SettingsError, match="^--insecure-registry: '/' is not usable"):
            options.engine_options(command_line().parse_args(command))


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
        assert users.resolve(fd, "") == users.ProcessUser(0, 0, (0,), "/root")
        assert users.resolve(fd, "web") == users.ProcessUser(33, 34, (34, 50), "/srv")
        assert users.resolve(fd, "web:extra") == users.ProcessUser(33, 50, (50,), "/srv")
        assert users.resolve(fd, ":extra") == users.ProcessUser(0, 50, (50,), "/root")
        assert users.resolve(fd, "1000") == users.ProcessUser(1000, 0, (0,), "/")
        assert users.resolve(fd, "33:7", ["extra"]) == users.ProcessUser(33, 7, (7, 50), "/srv")
        for wrong in ("nosuch", "web:nosuch", "4294967295", "9" * 30, "²", "0:²", "٣", "0:٣"):
            with pytest.raises(FaultError):
                users.resolve(fd, wrong)
    finally:
        os.close(fd)


def test_ids_of_thousands_of_digits_are_nobodys(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    many = "9" * 5000
    (tmp_path / "etc" / "passwd").write_text(
        f"long:x:{many}:0::/:\nlast:x:7:{many}::/:\nweb:x:5:5::/:\n"
    )
    (tmp_path / "etc" / "group").write_text(f"long:x:{many}:web\nlast:x:50:web\n")
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert users.resolve(fd, "web") == users.ProcessUser(5, 5, (5, 50), "/")
        assert users.resolve(fd, "7") == users.ProcessUser(7, 0, (0,), "/")
        for wrong in ("long", "last", "web:long", many):
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


def test_identity_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "subuid"
    path.write_text("other:1:70000\n1234:500:5\n1234:200000:65536\nbad line\nfew:9:5\n1234:x:1\n")
    assert identity.subordinate(str(path), 1234) == [(500, 5), (200000, 65536)]
    assert identity.subordinate(str(path), 4321) == []
    assert identity.subordinate(str(tmp_path / "nosuch"), 1234) == []


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ("", 100_000),
        ("other:0:70000\n", 100_000),
        ("first:100000:65536\nsecond:165536:65536\n", 231_072),
        ("high:2000000000:1000\nfirst:100000:65536\n", 165_536),
        ("second:150000:1000\n", 151_000),
    ],
)
def test_root_takes_ids_that_nobody_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, start: int
) -> None:
    path = tmp_path / "subuid"
    path.write_text(given)
    monkeypatch.setattr(identity, "SUBUID", str(path))
    monkeypatch.setattr(identity, "SUBGID", str(tmp_path / "nosuch"))
    assert identity.free_range() == (start, 65536)


def test_all_ranges_of_an_account_are_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "subuid"
    path.write_text("0:300000:65536\n0:1000000:2000000000\n")
    monkeypatch.setattr(identity, "SUBUID", str(path))
    monkeypatch.setattr(identity, "SUBGID", str(path))
    monkeypatch.setattr(identity.os, "geteuid", lambda: 0)
    rows = ((0, 300000, 65536), (65536, 1000000, 2000000000))
    monkeypatch.setattr(identity, "may_open_trees", lambda: True)
    monkeypatch.setattr(identity, "_covers", lambda *ids: True)
    monkeypatch.setattr(identity, "without_idmapped_mounts", lambda path: "")
    assert identity.choose() == identity.Identity("root", rows, rows, privileged=True)
    chosen = identity.choose("range")
    assert chosen.uid_map == ((0, 0, 1), (1, 300000, 65536), (65537, 1000000, 2000000000))
    assert len(chosen._replace(uid_map=rows * 20).id_map_class) < 100


def test_root_has_its_own_ids_where_mounts_cannot_have_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identity.os, "geteuid", lambda: 0)
    monkeypatch.setattr(identity, "may_open_trees", lambda: True)
    monkeypatch.setattr(identity, "_own_ids", lambda kind: 1000)
    kinds = {"/store": "overlay"}
    monkeypatch.setattr(identity, "without_idmapped_mounts", lambda path: kinds.get(path, ""))
    assert identity.choose("auto", "/elsewhere").mode == "root"
    assert identity.choose("root", "/store").mode == "root"
    chosen = identity.choose("auto", "/store")
    assert chosen.uid_map == chosen.gid_map == ((0, 0, 1000),)
    assert (chosen.mode, chosen.privileged) == ("range", True)
    assert chosen.reason == "overlay, the file system of /store, has no idmapped mounts here"


@pytest.mark.parametrize(
    ("ids", "taken", "left"),
    [
        ((10, 10), [], [(10, 10)]),
        ((10, 10), [(10, 10)], []),
        ((10, 10), [(0, 100)], []),
        ((10, 10), [(15, 1)], [(10, 5), (16, 4)]),
        ((10, 10), [(0, 12), (18, 9)], [(12, 6)]),
        ((10, 10), [(0, 10), (20, 10)], [(10, 10)]),
    ],
)
def test_ranges_are_cut_where_ids_are_taken(
    ids: identity.Range, taken: list[identity.Range], left: list[identity.Range]
) -> None:
    assert identity.cut(ids, taken) == left
