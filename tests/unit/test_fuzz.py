"""Parsers on whatever others write: a moment of fuzzing for each, and what more of it has found."""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz import archives, targets
from fuzz.targets import TARGETS, check_sentence
from helpers.layouts import layer, member
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_containers.builder.dockerfile.errors import DockerfileError
from pytest_containers.builder.dockerfile.expand import expand_text
from pytest_containers.builder.dockerfile.globs import name_regex
from pytest_containers.builder.dockerfile.parser import parse
from pytest_containers.engines.native.profiles import Host, resolve
from pytest_containers.images import manifest as manifests
from pytest_containers.images import reference
from pytest_containers.images.formats import archives as formats
from pytest_containers.images.jobs.unpack import unpack_layer
from pytest_containers.images.reference import ArchiveSource
from pytest_containers.images.registry.settings import substitute
from pytest_containers.model.engine_options import RegistrySettings
from pytest_containers.model.errors import ImageError, SettingsError, SpecError
from pytest_containers.model.settings import Settings
from pytest_containers.runtime.wire.channel import Channel, ChannelClosed
from pytest_containers.runtime.wire.faults import FaultError, received


@pytest.fixture(scope="module", autouse=True)
def _places() -> Iterator[None]:
    yield
    targets.remove_places()


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_is_a_value_or_a_documented_error(name: str) -> None:
    target = TARGETS[name]

    @settings(
        max_examples=100 if target.heavy else 400,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(max_size=200))
    def check(data: bytes) -> None:
        target.run(data)

    check()
    for seed in target.seeds:
        target.run(seed)


def test_a_harness_finds_a_layer_that_gets_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would see it: here by a writer that goes wrong."""
    from pytest_containers.images.jobs.layer_writer import LayerWriter

    def finish(writer: LayerWriter) -> None:
        fd = os.open("../../outside/victim", os.O_WRONLY, dir_fd=writer.root)
        os.write(fd, b"changed")
        os.close(fd)

    monkeypatch.setattr(LayerWriter, "finish", finish)
    with pytest.raises(AssertionError, match="the host was changed"):
        targets.layer(b"")
    targets.remove_places()


# ------------------------------------------------------------------------- findings


@pytest.mark.parametrize("repository", ["docker.po1/r", "localhost/r", f"library/{'0' * 64}"])
def test_a_familiar_name_that_would_name_another_image_is_written_in_full(repository: str) -> None:
    parsed = reference.parse(f"docker.io/{repository}@sha256:{'1' * 64}")
    assert isinstance(parsed, reference.Reference)
    assert reference.parse(parsed.familiar) == parsed
    prefixed = substitute(RegistrySettings(hub_prefix="mirror.example/hub"), parsed)
    assert prefixed.repository == f"hub/{repository.removeprefix('library/')}"


def refused_config(**run: Any) -> str:
    with pytest.raises(ImageError) as caught:
        manifests.parse_config({**archives.CONFIG, "config": run}, "image x")
    check_sentence(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Env", [None]), ("Env", 3), ("Env", [["a", "b"]]), ("Cmd", 0.5), ("Cmd", [{}]),
        ("Entrypoint", True), ("ExposedPorts", 80), ("Volumes", ["a", 1]), ("Labels", ["a"]), ("Labels", "ab"),
        ("Healthcheck", {"Test": 3}), ("Healthcheck", {"Test": ["CMD"], "Interval": "1s"}),
        ("Healthcheck", {"Test": ["CMD"], "Retries": float("nan")}),
        ("Healthcheck", {"Test": ["CMD"], "Timeout": -1}), ("Shell", [["a"]]),
    ],
)  # fmt: skip
def test_a_malformed_setting_of_an_image_is_named(key: str, value: object) -> None:
    message = refused_config(**{key: value})
    assert message.startswith("image x: its config is malformed: ")
    assert key in message


def test_what_an_image_calls_its_machine_is_quoted() -> None:
    """A terminal would take it for a command."""
    for name in ("\x1b[2J", "a\n::error::b", "9" * 5000):
        with pytest.raises(ImageError, match="is for ") as caught:
            manifests.parse_config({"architecture": name}, "image x")
        check_sentence(caught.value)


def test_a_reference_is_cut_off_as_it_is_shown() -> None:
    with pytest.raises(ImageError, match="is not valid") as caught:
        reference.parse("x:" + "\udcff" * 290)
    check_sentence(caught.value)


@pytest.mark.parametrize(
    "body",
    [{"mediaType": 0.5, "layers": []}, {"mediaType": ["a"], "manifests": []}, {"mediaType": "9" * 5000}],
)  # fmt: skip
def test_a_media_type_that_is_none(body: dict[str, Any]) -> None:
    with pytest.raises(ImageError, match="media type") as caught:
        manifests.kind_of(body, "", "image x")
    check_sentence(caught.value)


def test_addresses_of_a_layer_that_are_no_list() -> None:
    raw = {"digest": "sha256:" + "0" * 64, "size": 1, "urls": 3}
    assert manifests.descriptor(raw, "image x").urls == ()


@pytest.mark.parametrize(
    "entry",
    [{"RepoTags": 0.5}, {"RepoTags": [["a"]]}, {"RepoTags": [None]}, {"Layers": {"a": 1}}, {"Layers": [1]}],
)  # fmt: skip
def test_a_malformed_archive_of_docker_save(tmp_path: Path, entry: dict[str, Any]) -> None:
    config = archives.dumped(archives.CONFIG)
    (tmp_path / "c").write_bytes(config)
    (tmp_path / "l").write_bytes(b"")
    document = [{"Config": "c", "Layers": ["l"], "RepoTags": ["a:1"], **entry}]
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with formats.Files(tmp_path) as files:
        for name in (None, "a:1"):
            with pytest.raises(ImageError, match="is malformed") as caught:
                formats.find(files, ArchiveSource("docker-archive", "/x", name))
            check_sentence(caught.value)


def test_unpacking_leaves_no_descriptor(tmp_path: Path) -> None:
    tmp_path.joinpath("layer").write_bytes(archives.layer(targets.Choices(b""), "/outside"))
    arguments = {
        "offset": 0, "size": tmp_path.joinpath("layer").stat().st_size, "digest": None, "diff_id": None,
        "hashed": False, "single": True, "name": "layer x",
    }  # fmt: skip
    fds = [
        os.open(tmp_path / "layer", os.O_RDONLY),
        os.open(tmp_path, os.O_RDONLY),
        *os.pipe(),
    ]
    mask = os.umask(0)
    try:
        before = os.listdir("/proc/self/fd")
        unpack_layer(arguments, fds[:3])
        assert len(os.listdir("/proc/self/fd")) == len(before)
    finally:
        os.umask(mask)
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("name", ["\x1b[2J" + "x" * 300, "\x1b[2J\n/a/" + "x" * 300])
def test_names_in_a_layer_are_quoted(tmp_path: Path, name: str) -> None:
    data = layer([member(name, b"x")])
    (tmp_path / "layer").write_bytes(data)
    arguments = {
        "offset": 0, "size": len(data), "digest": None, "diff_id": None,
        "hashed": False, "single": True, "name": "layer x",
    }  # fmt: skip
    fds = [os.open(tmp_path / "layer", os.O_RDONLY), os.open(tmp_path, os.O_RDONLY), *os.pipe()]
    mask = os.umask(0)
    try:
        with pytest.raises(ImageError, match="File name too long") as caught:
            unpack_layer(arguments, fds[:3])
    finally:
        os.umask(mask)
        for fd in fds:
            os.close(fd)
    check_sentence(caught.value)


LAYERS = {
    "a link to NUL": (
        {"type": tarfile.SYMTYPE, "pax_headers": {"linkpath": "a\0b"}}, "the link of member 'x' contains NUL",
    ),
    "a name with NUL": ({"pax_headers": {"path": "a\0b"}}, "contains NUL"),
    "a sparse file of 2^64 bytes": (
        {"pax_headers": {"GNU.sparse.size": "18446744073709551616", "GNU.sparse.map": "0,1"}},
        "a member has 18446744073709551616 bytes",
    ),
    "a time beyond all times": ({"pax_headers": {"mtime": "9" * 19}}, ""),
    "a time before all times": ({"pax_headers": {"mtime": "-" + "9" * 19}}, ""),
    "an attribute with NUL": ({"pax_headers": {"SCHILY.xattr.user.a\0b": "x"}}, ""),
    "an attribute with a long name": ({"pax_headers": {"SCHILY.xattr.user." + "a" * 400: "x"}}, ""),
    "an id beyond all ids": ({"pax_headers": {"uid": "9" * 19}}, ""),
}  # fmt: skip


@pytest.mark.needs("root")
def test_an_owner_of_the_root_that_nobody_is(tmp_path: Path) -> None:
    (tmp_path / "layer").write_bytes(layer([member(".", type=tarfile.DIRTYPE, uid=1 << 32)]))
    arguments = {
        "offset": 0, "size": (tmp_path / "layer").stat().st_size, "digest": None, "diff_id": None,
        "hashed": False, "single": False, "name": "layer x",
    }  # fmt: skip
    fds = [os.open(tmp_path / "layer", os.O_RDONLY), os.open(tmp_path, os.O_RDONLY), *os.pipe()]
    mask = os.umask(0)
    try:
        with pytest.raises(ImageError, match="belongs to 4294967296:0") as caught:
            unpack_layer(arguments, fds[:3])
    finally:
        os.umask(mask)
        for fd in fds:
            os.close(fd)
    check_sentence(caught.value)


@pytest.mark.parametrize("what", LAYERS)
def test_what_no_file_can_have(tmp_path: Path, what: str) -> None:
    facts, message = LAYERS[what]
    data = layer([member("x", b"x", **facts)])
    (tmp_path / "layer").write_bytes(data)
    arguments = {
        "offset": 0, "size": len(data), "digest": None, "diff_id": None,
        "hashed": False, "single": os.geteuid() != 0, "name": "layer x",
    }  # fmt: skip
    fds = [os.open(tmp_path / "layer", os.O_RDONLY), os.open(tmp_path, os.O_RDONLY), *os.pipe()]
    mask = os.umask(0)
    try:
        unpack_layer(arguments, fds[:3])
    except ImageError as error:
        check_sentence(error)
        assert message in str(error)
    else:
        assert not message
    finally:
        os.umask(mask)
        for fd in fds:
            os.close(fd)


FRAMES = {
    "no text": b"\x02\0\0\0\0\0\0\0\xff\xff",
    "no JSON": b"\x02\0\0\0\0\0\0\0{,",
    "no object": b"\x02\0\0\0\0\0\0\0[]",
    "nested too deep": (20_000).to_bytes(4, "little") + bytes(4) + b"[" * 20_000,
    "no number of descriptors": b"\x0b\0\0\0\0\0\0\0" + b'{"#fds":""}',
    "a negative number of descriptors": b"\x0b\0\0\0\0\0\0\0" + b'{"#fds":-1}',
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_that_is_none_ends_the_channel(name: str) -> None:
    left, right = Channel.pair()
    with contextlib.closing(left), contextlib.closing(right):
        left.sock.sendall(FRAMES[name])
        with pytest.raises(ChannelClosed, match="a frame's"):
            right.receive()


@pytest.mark.parametrize("error", [None, 3, [], ["a"], [1, 2, 3, 4], ["a", "b", [], []], {"a": 1}])
def test_an_error_that_is_none_is_one(error: object) -> None:
    fault = received(error)
    assert fault.message.startswith("an error came that is none")
    assert fault.kind == "ContainersError"


@pytest.mark.parametrize("number", ["9" * 5000, "1" * 19])
def test_a_number_that_nobody_means(number: str) -> None:
    with pytest.raises(SettingsError, match="must be a whole number, 0 or more") as caught:
        Settings({"log_lines": number}, {}, {})
    check_sentence(caught.value)


def test_a_time_is_finite() -> None:
    with pytest.raises(SettingsError, match="must be a time such as 90s"):
        Settings({}, {"keep_time": "1e305d"}, {})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"archMap": [{"architecture": []}]}, "architecture [] is unknown"),
        ({"archMap": [{"architecture": "SCMP_ARCH_X86", "subArchitectures": 3}]}, "subArchitectures 3"),
        ({"defaultAction": "9" * 5000}, "is unknown"),
    ],
)  # fmt: skip
def test_a_malformed_profile_of_system_calls(document: dict[str, Any], message: str) -> None:
    from pytest_containers.runtime.seccomp.policy import policy_of

    with pytest.raises((FaultError, SpecError)) as caught:
        policy_of(resolve(document, "profile", Host(frozenset(), "x86_64", (6, 1))), "profile")
    assert message in str(caught.value)
    check_sentence(caught.value)


def test_long_and_strange_words_of_a_dockerfile_are_cut_and_shown() -> None:
    started = time.monotonic()
    with pytest.raises(DockerfileError) as caught:
        parse("FROM x\n" + "S" * 100_000)
    check_sentence(caught.value)
    with pytest.raises(DockerfileError) as caught:
        parse("FROM x\nRUX \x1b[2J")
    assert "\x1b" not in str(caught.value)
    assert time.monotonic() - started < 5


def test_patterns_of_many_wildcards_take_no_time() -> None:
    """Python's `re` goes back for each of them: these would take years."""
    started = time.monotonic()
    value = "a" * 200
    stars = "*a" * 25
    assert name_regex(f"{stars}b").fullmatch(value) is None
    assert name_regex(f"{stars}*").fullmatch(value) is not None
    assert expand_text(f"${{A%%{stars}b}}", {"A": value}) == value
    assert expand_text(f"${{A//{stars}b/x}}", {"A": value[:60]}) == value[:60]
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("${A#*b}", "-ab-ab"), ("${A##*b}", ""), ("${A%b*}", "ab-ab-a"), ("${A%%b*}", "a"),
        ("${A/a*b/x}", "x"), ("${A//b-*-/x}", "axab"), ("${A/*/x}", "x"), ("${A//?b/x}", "x-x-x"),
        ("${A#*a*a}", "b-ab"), ("${A##*a*b}", ""), ("${A%a*b*}", "ab-ab-"),
    ],
)  # fmt: skip
def test_wildcards_match_as_in_a_shell(word: str, expected: str) -> None:
    assert expand_text(word, {"A": "ab-ab-ab"}) == expected
