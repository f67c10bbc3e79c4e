"""The harnesses. Each takes bytes, and raises if the project breaks its word about them.

That is: whatever the input, there is a value, or an error of the documented classes in one clear
sentence; and where there is a way back, it leads to the same value.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pytest_containers.builder.dockerfile import parser
from pytest_containers.builder.dockerfile.errors import DockerfileError
from pytest_containers.builder.dockerfile.expand import ExpansionError, expand_text, expand_words
from pytest_containers.builder.dockerfile.globs import PatternError, path_matcher
from pytest_containers.builder.dockerfile.ignore import ignore_file
from pytest_containers.engines.native.profiles import Host, resolve
from pytest_containers.images import manifest as manifests
from pytest_containers.images import reference as references
from pytest_containers.images.decompress import CompressionError, decompressed
from pytest_containers.images.formats import archives as formats
from pytest_containers.images.image import ImageConfig
from pytest_containers.images.jobs.unpack import unpack_layer
from pytest_containers.model import settings
from pytest_containers.model.errors import ImageError, SettingsError, SpecError
from pytest_containers.model.limits import RATES, check_limits
from pytest_containers.model.sizes import format_size, parse_size
from pytest_containers.runtime.copying import tar
from pytest_containers.runtime.seccomp.compiler import compile_filter
from pytest_containers.runtime.seccomp.policy import policy_of
from pytest_containers.runtime.wire import message as messages
from pytest_containers.runtime.wire import operations
from pytest_containers.runtime.wire.channel import Channel, ChannelClosed, encode
from pytest_containers.runtime.wire.faults import Fault, FaultError

from . import archives
from .choices import ODD_TEXTS, Choices, mutated

_MAX_SENTENCE = 2000


@contextmanager
def _answers(*errors: type[Exception]) -> Iterator[None]:
    """Allow the documented errors, if each is one clear sentence."""
    try:
        yield
    except errors as error:
        check_sentence(error)


def check_sentence(error: Exception) -> None:
    """Fail unless the message is for people, whatever it quotes."""
    first, _, below = str(error).partition("\n")
    assert first.strip(), f"{error!r} says nothing"
    assert len(first) <= _MAX_SENTENCE, f"a sentence of {len(first)} characters: {first[:200]!r}"
    if not isinstance(error, DockerfileError):  # it shows the line below
        assert not below, f"more than a sentence: {error}"
        assert first.isprintable(), f"not printable: {first!r}"


# ----------------------------------------------------------------------- references


def reference(data: bytes) -> None:
    """Names of images: what is parsed is written and parsed again."""
    text = data.decode("utf-8", "surrogateescape")
    with _answers(ImageError):
        parsed = references.parse(text)
        if isinstance(parsed, references.Reference):
            assert references.parse(str(parsed)) == parsed
            assert references.parse(parsed.familiar) == parsed
        elif isinstance(parsed, references.ArchiveSource):
            assert references.parse(str(parsed)) == parsed


REFERENCES = (
    b"redis", b"redis:7", b"localhost:5000/a/b:c@sha256:" + b"0" * 64, b"host:?path=/a&etc=b&project=1",
    b"oci:/a:b", b"oci-archive:/x", b"docker-archive:/a:b:1", b"rootfs:/d", b"[::1]:5000/a", b"host:/a",
)  # fmt: skip

# ------------------------------------------------------------------------ manifests


def manifest(data: bytes) -> None:
    """Manifests, indexes and configs of a registry."""
    choices = Choices(data)
    config = archives.dumped(mutated(choices, archives.CONFIG))
    body = archives.dumped(mutated(choices, archives.manifest(config, [b"layer"])))
    top = archives.dumped(mutated(choices, archives.index(body))) if choices.byte() % 2 else body
    if choices.rarely():
        top = choices.rest()
    kind = choices.text("", *manifests.MANIFEST_TYPES, *manifests.INDEX_TYPES)
    with _answers(ImageError):
        parsed = manifests.resolve(top, "sha256:" + "0" * 64, kind, lambda _: body, "image x")
        assert manifests.parse(*parsed[2:0:-1], parsed.media_type, "image x") == parsed
    with _answers(ImageError):
        _check_config(manifests.document(config, "image x"))


def _check_config(document: dict[str, Any]) -> None:
    config = manifests.parse_config(document, "image x")
    for words in (
        config.entrypoint,
        config.cmd,
        config.exposed_ports,
        config.volumes,
        config.shell,
    ):
        assert isinstance(words, tuple), words
        assert all(isinstance(word, str) for word in words), words
    for mapping in (config.env, config.labels):
        assert all(isinstance(text, str) for pair in mapping.items() for text in pair), mapping
    assert config.stop_signal is None or isinstance(config.stop_signal, str)
    health = config.healthcheck
    if health is not None:
        assert all(isinstance(word, str) for word in health.test)
        times = (health.interval_s, health.timeout_s, health.start_period_s, health.retries)
        assert all(0 <= time < 1 << 63 for time in times), times
    assert isinstance(config, ImageConfig)
    manifests.diff_ids_of(document, "image x")


# ------------------------------------------------------------------------- archives


def archive(data: bytes) -> None:
    """Archives of images: all in them, one by name, and one without."""
    choices = Choices(data)
    kind = choices.of(references.ARCHIVE_KINDS[1:])
    content = choices.rest() if choices.rarely() else archives.image(choices, kind)
    fd = os.memfd_create("archive", os.MFD_CLOEXEC)
    try:
        os.write(fd, content)
        path = Path(f"/proc/self/fd/{fd}")
        with _answers(ImageError), formats.Files(path) as files:
            for name in (None, "1", "a:1", "nothing"):
                with _answers(ImageError):
                    found = formats.find(files, references.ArchiveSource(kind, "/x", name))
                    _check_config(manifests.document(found.config_data, "image x"))
            with _answers(ImageError):
                for each in formats.every(files, references.ArchiveSource(kind, "/x")):
                    assert all(isinstance(name, str) for name in each.names)
    finally:
        os.close(fd)


# --------------------------------------------------------------------------- layers


def tar_stream(data: bytes) -> None:
    """Tar streams, whole and in pieces, which give the same members."""
    choices = Choices(data)
    size = 1 + choices.number(700)
    content = archives.layer(choices, "/outside") if choices.byte() % 2 else choices.rest()
    assert _members(content, size) == _members(content, len(content) or 1)


def _members(data: bytes, size: int) -> list[Any]:
    reader = tar.Reader(data[at : at + size] for at in range(0, len(data), size))
    found: list[Any] = []
    try:
        for member in reader:
            assert member.size >= 0
            assert member.stored <= max(member.size, 0)
            found.append((member, b"".join(bytes(piece) for piece in reader.data())))
    except tar.TarError as error:
        check_sentence(error)
        found.append(str(error))
    return found


def compressed(data: bytes) -> None:
    """Compressed streams of every kind."""
    choices = Choices(data)
    content = archives.layer(choices, "/outside") if choices.byte() % 2 else choices.rest()
    pieces = iter([content[at : at + 64] for at in range(0, len(content), 64)])
    with _answers(CompressionError, EOFError):
        total = sum(len(piece) for piece in decompressed(lambda size: next(pieces, b"")))
        assert total <= 4096 + 100_000 * max(len(content), 1)


class _Place:
    """A directory for trees, beside others that must stay as they are."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="pytest-containers-fuzz-"))
        self.outside = self.path / "outside"
        self.outside.mkdir()
        (self.outside / "victim").write_text("untouched")
        (self.outside / "link").symlink_to("victim")
        (self.path / "parent").mkdir()
        self.before = self.state()

    def state(self) -> list[Any]:
        """All that is outside of the tree, with what an archive could set."""
        paths = [self.path, *sorted(self.outside.rglob("*")), self.outside]
        found: list[Any] = [sorted(os.listdir(self.path)), os.listdir(self.path / "parent")]
        for path in paths:
            status = path.lstat()
            found.append((path, status.st_mode, status.st_uid, status.st_gid, status.st_nlink,
                          status.st_mtime_ns, os.listxattr(path, follow_symlinks=False)))  # fmt: skip
        return [*found, (self.outside / "victim").read_text()]

    def clear(self) -> None:
        tree = self.path / "parent" / "tree"
        if tree.exists():
            for folder, _, _ in os.walk(tree):
                os.chmod(folder, 0o700)
            shutil.rmtree(tree)


@contextmanager
def _umask_kept() -> Iterator[None]:
    mask = os.umask(0)
    try:
        yield
    finally:
        os.umask(mask)


_places: list[_Place] = []


def layer(data: bytes) -> None:
    """Layers on a real file system: nothing outside of the tree changes."""
    if not _places:
        _places.append(_Place())
    place = _places[0]
    place.clear()
    choices = Choices(data)
    fds = [os.memfd_create("layer", os.MFD_CLOEXEC), os.open(place.path / "parent", os.O_RDONLY)]
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        content = archives.layer(choices, str(place.outside))
        os.write(fds[0], content)
        arguments = {
            "offset": 0, "size": len(content), "digest": None, "diff_id": None, "hashed": True,
            "single": os.geteuid() != 0 or choices.byte() % 2 == 0, "name": "layer x",
        }  # fmt: skip
        opened = len(os.listdir("/proc/self/fd"))
        with _umask_kept(), _answers(ImageError):
            unpack_layer(arguments, [*fds, reader])
        assert len(os.listdir("/proc/self/fd")) <= opened + 1, "a descriptor is left open"
    finally:
        for fd in (*fds, reader, writer):
            os.close(fd)
    after = place.state()
    assert [*after[:1], *after[2:]] == [*place.before[:1], *place.before[2:]], (
        "the host was changed"
    )
    assert set(after[1]) <= {"tree"}


def remove_places() -> None:
    """Remove what `layer` has made."""
    while _places:
        place = _places.pop()
        place.clear()
        shutil.rmtree(place.path)


# ---------------------------------------------------------------------- Dockerfiles

_LINES = (
    "FROM x", "FROM x AS y", "FROM --platform=linux/amd64 $A", "ARG A=b", "ENV A=b C='d e'", "ENV a b",
    "RUN a \\", "RUN <<E", "RUN <<-'E' cat", "E", "COPY --from=y --chown=1:2 a b", "COPY <<E /f",
    "ADD --checksum=sha256:00 http://x/y /z", 'CMD ["a", "b"]', "CMD a b", "ENTRYPOINT x", "LABEL a=b",
    "HEALTHCHECK --interval=1s --retries=3 CMD x", "HEALTHCHECK NONE", "EXPOSE 80/tcp 1-3", "VOLUME /a",
    "USER 1:2", "WORKDIR /a", "STOPSIGNAL 9", "SHELL [\"a\"]", "ONBUILD RUN x", "MAINTAINER x",
    "# escape=`", "# syntax=x", "#", "RUN --mount=type=cache,target=/a,id=b x", "RUN --mount=type=secret,id=a x",
    "RUN --network=none x", "\\", "",
)  # fmt: skip
_BITS = ("$A", "${A:-b}", "${A%%*}", "${A//a/b}", "${A", '"', "'", "\\", "`", "<<", "=", " ", "--", "[", "{", "\t", "*", "[a-z]", "!", "**/")  # fmt: skip


def _dockerfile_text(choices: Choices) -> str:
    lines = ["FROM x"] if choices.often() else []
    for _ in range(1 + choices.number(6)):
        line = choices.of(_LINES)
        for _ in range(choices.number(3)):
            at = choices.number(len(line) + 1)
            line = line[:at] + choices.text(*_BITS) + line[at:]
        lines.append(line)
    return choices.of(("\n", "\n", "\n", "\r\n")).join(lines)


def dockerfile(data: bytes) -> None:
    """Dockerfiles: what is read is read again from its own lines."""
    choices = Choices(data)
    text = (
        choices.rest().decode("utf-8", "replace") if choices.rarely() else _dockerfile_text(choices)
    )
    with _answers(DockerfileError):
        parsed = parser.parse(text)
        assert parser.parse(parsed.content) == parsed
        for instruction in parsed:
            assert 1 <= instruction.line <= text.count("\n") + 1


def dockerfile_words(data: bytes) -> None:
    """What stands in Dockerfiles: variables, patterns, mounts, triggers, .dockerignore."""
    choices = Choices(data)
    text = "".join(choices.text(*_BITS, "a", "b/") for _ in range(1 + choices.number(8)))
    variables = {"A": choices.text("value", "a*b", "\\")}
    # These become a sentence where the line is known.
    with contextlib.suppress(ExpansionError):
        expand_text(text, variables)
    with contextlib.suppress(ExpansionError):
        expand_words(text, variables)
    with contextlib.suppress(PatternError):
        path_matcher(text)("a/b/a")
    with contextlib.suppress(ValueError):
        lines = f"{text}\n{choices.text(*_BITS)}".replace("\ud800", "")
        patterns = ignore_file(lines.encode("utf-8", "surrogateescape"))
        patterns.excludes_path("a/b")
        patterns.may_include_below("a")
    with _answers(DockerfileError):
        parser.parse_trigger(text, "image x")


# ----------------------------------------------------------------------------- wire


def _classes() -> tuple[type[messages.Message], ...]:
    import importlib
    import pkgutil

    found = []
    for module in pkgutil.iter_modules(operations.__path__):
        loaded = importlib.import_module(f"{operations.__name__}.{module.name}")
        found += [
            kind
            for kind in vars(loaded).values()
            if isinstance(kind, type) and issubclass(kind, messages.Message)
            and kind.__module__ == loaded.__name__
        ]  # fmt: skip
    return tuple(dict.fromkeys(found))


_MESSAGES = _classes()


def _fields(choices: Choices, kind: type[messages.Message]) -> dict[str, Any]:
    """Fields that fit, mostly."""
    fields = {}
    for name, field in messages.layout(kind).json.items():
        if hasattr(kind, name) and choices.byte() % 2:
            continue
        fields[name] = _fitting(choices, field.hint) if choices.often() else choices.value()
    if choices.rarely():
        fields[choices.text("op", "id", "#fds", "ok", "error")] = choices.value()
    return fields


def _fitting(choices: Choices, hint: Any) -> Any:
    simple = {str: lambda: choices.text("a"), int: lambda: choices.of((0, 1, -1, 1 << 70)),
              bool: lambda: True, float: lambda: 1.5, type(None): lambda: None}  # fmt: skip
    if hint in simple:
        return simple[hint]()
    arguments = getattr(hint, "__args__", ())
    origin = getattr(hint, "__origin__", None)
    name = getattr(origin, "__name__", "")
    if name == "Sequence":
        return [_fitting(choices, arguments[0]) for _ in range(choices.number(3))]
    if name == "Mapping":
        return {
            choices.text("a"): _fitting(choices, arguments[1]) for _ in range(choices.number(2))
        }
    if isinstance(hint, type) and issubclass(hint, messages.Message):
        return _fields(choices, hint)
    if arguments:  # a union, or a Literal
        chosen = choices.of(arguments)
        return (
            chosen
            if not isinstance(chosen, type) and origin is not None
            else _fitting(choices, chosen)
        )
    return choices.value()


def wire(data: bytes) -> None:
    """Messages between the processes of a run, one of which may have been taken over."""
    choices = Choices(data)
    kind = choices.of(_MESSAGES)
    body = _fields(choices, kind)
    with contextlib.suppress(FaultError):
        made = messages.unpack(kind, copy.deepcopy(body), b"blob" if messages.layout(kind).blob else b"",
                               [-1] * len(messages.layout(kind).descriptors))  # fmt: skip
        _back_and_forth(made)
    with _answers(FaultError):
        messages.unpack(kind, json.loads(json.dumps(body)))
    content = encode(body) if choices.often() else choices.rest()
    if choices.rarely() and content:
        changed = bytearray(content)
        changed[choices.number(len(changed))] = choices.byte()
        content = bytes(changed)
    _receive(kind, content)


def _back_and_forth(made: messages.Message) -> None:
    fields, fds, blob = messages.pack(made)
    encoded = encode(fields, blob=blob)
    left, right = Channel.pair()
    with contextlib.closing(left), contextlib.closing(right):
        left.sock.sendall(encoded)
        frame = right.receive()
        received = messages.unpack(type(made), frame.body, frame.blob, fds)
        assert repr(received) == repr(made)  # equal, also where a number is none


def _receive(kind: type[messages.Message], content: bytes) -> None:
    left, right = socket.socketpair()
    channel = Channel(right)
    with left, contextlib.closing(channel):
        left.sendall(content[:100_000])
        left.shutdown(socket.SHUT_WR)
        with _answers(ChannelClosed):
            while True:
                frame = channel.receive()
                answer = messages.unpack_answer("X", kind, frame.body, frame.blob, frame.fds)
                assert isinstance(answer, Fault | messages.Message)
                if isinstance(answer, Fault):
                    assert isinstance(answer.kind, str)
                    assert isinstance(answer.message, str)
                    assert isinstance(answer.data, dict)
                with _answers(FaultError):
                    messages.unpack(kind, frame.body, frame.blob, ())


# ------------------------------------------------------------------------- settings

_VALUES = (
    "1", "0", "64m", "1.5GiB", "90s", "2h", "yes", "on", "off", "never", "seccomp=unconfined", "a=b",
    "registry.test:5000", "~", "~root/x", "seccomp={}", "all", "1e308d", "99999999999999999999d", "²", "1_0",
)  # fmt: skip


def setting(data: bytes) -> None:
    """Settings of every source."""
    choices = Choices(data)
    chosen = choices.of(settings.ALL)
    value: Any = choices.text(*_VALUES)
    sources: list[dict[str, Any]] = [{}, {}, {}]
    place = choices.number(3)
    if place == 2:
        sources[2][chosen.variable] = value
    else:
        sources[place][chosen.name] = [value] if chosen.several else value
    with _answers(SettingsError):
        found = settings.Settings(*sources).get(chosen)
        if isinstance(found, float):
            assert 0 < found < float("inf")
    with _answers(ValueError):
        size = parse_size(value)
        assert 0 <= size < 1 << 63
        assert parse_size(str(size)) == size
        assert format_size(size)


def limits(data: bytes) -> None:
    """Limits of containers."""
    choices = Choices(data)
    numbers = (None, None, 0, 1, -1, 1000, 1 << 40, 1 << 70, -(1 << 70))
    texts = (*_VALUES, *ODD_TEXTS, "0-2,4", "3-1", "0-", "512k", 6 << 20, None, -1)
    with _answers(SpecError):
        check_limits(
            mem_limit=choices.of(texts), memswap_limit=choices.of(texts),
            cpus=choices.of((None, 0.5, float("nan"), float("inf"), -1.0, 1e9)),
            cpuset=choices.of((None, "0", "0-2,4", "3-1", "", "\u0663", "0\n", "9" * 5000)),
            cpu_shares=choices.of(numbers), pids_limit=choices.of(numbers),
            blkio_weight=choices.of(numbers), oom_score_adj=choices.of(numbers),
            rates={choices.of(RATES): [{"Path": choices.text("/dev/sda"), "Rate": choices.of(texts[:-2])}]},
            shm_size=choices.of(texts[:-2]),
        )  # fmt: skip


# -------------------------------------------------------------------------- seccomp

_PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
    "syscalls": [
        {"names": ["read", "write", "nothing"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "comment": "",
         "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
         "includes": {"caps": ["CAP_SYS_ADMIN"], "minKernel": "4.8", "arches": ["amd64"]},
         "excludes": {"caps": ["CAP_BPF"], "arches": ["s390"]}},
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22, "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_GE"}]},
    ],
}  # fmt: skip


def seccomp(data: bytes) -> None:
    """Profiles of system calls, and the filters that they become."""
    choices = Choices(data)
    document = mutated(choices, _PROFILE)
    host = Host(
        frozenset({"CAP_CHOWN", "CAP_SYS_ADMIN"}), choices.of(("x86_64", "aarch64")), (6, 1)
    )
    with _answers(FaultError, SpecError):
        policy = policy_of(resolve(document, "profile", host), "profile")
        code = compile_filter(policy, host.machine)
        assert len(code) % 8 == 0
        assert len(code) // 8 <= 4096
        json.dumps(document)


class Target(NamedTuple):
    """A harness, and what atheris begins with beside random bytes."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...] = ()
    heavy: bool = False


_SPREAD = tuple(bytes((n * 37 + i * (n + 1)) % 256 for i in range(80)) for n in range(24))

TARGETS: dict[str, Target] = {
    "reference": Target(reference, REFERENCES),
    "manifest": Target(manifest, _SPREAD),
    "archive": Target(archive, _SPREAD),
    "tar_stream": Target(tar_stream, _SPREAD),
    "compressed": Target(compressed, _SPREAD),
    "layer": Target(layer, _SPREAD, heavy=True),
    "dockerfile": Target(dockerfile, _SPREAD),
    "dockerfile_words": Target(dockerfile_words, _SPREAD),
    "wire": Target(wire, _SPREAD),
    "setting": Target(setting, _SPREAD),
    "limits": Target(limits, _SPREAD),
    "seccomp": Target(seccomp, _SPREAD),
}
