"""Types of arguments: callers without a type checker are told what a wrong one should have been.

An argument of one name means the same in every call, so the kinds go by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pytest_containers.model.errors import SpecError, hide_frames

__tracebackhide__ = hide_frames


_LONGEST = 80


class Kind(NamedTuple):
    """A kind of values that an argument accepts.

    Attributes:
        accepts: True for a value of this kind.
        description: Completes "must be …".
        secret: True if a value may be one that no report should show.
    """

    accepts: Callable[[Any], bool]
    description: str
    secret: bool = False


def check(call: str, **arguments: Any) -> None:
    """Refuse arguments of a wrong type.

    Args:
        call: What they are arguments of.
        **arguments: By the names of `KINDS`.

    Raises:
        SpecError: One is none of its kind.
    """
    for name, value in arguments.items():
        require(call, name, value, KINDS[name])


def require(call: str, name: str, value: object, kind: Kind) -> None:
    """Refuse one argument of another kind than its name says in `KINDS`.

    Raises:
        SpecError: It is none of `kind`.
    """
    if not kind.accepts(value):
        shown = f"a {type(value).__name__}" if kind.secret else repr(value)
        shown = shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
        raise SpecError(
            f"{call}: {name}={shown} is not usable; it must be {kind.description}", option=name
        )


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return _whole(value) and value >= 0


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)


def _several(value: Any) -> bool:
    """A list or tuple; a text would be taken apart, a set has no order."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _each(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: _several(value) and all(map(accepts, value))


def _optional(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or accepts(value)


def _any_of(*kinds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: any(accepts(value) for accepts in kinds)


def _one_of(*values: object) -> Kind:
    return Kind(lambda value: value in values, " or ".join(map(repr, values)))


def _has(name: str) -> Callable[[Any], bool]:
    return lambda value: not isinstance(value, type) and hasattr(value, name)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


TEXT = Kind(_text, "text")
SECRET_TEXT = Kind(_text, "text", True)
_RATES = Kind(_each(_is_mapping), "a list such as [{'Path': '/dev/sda', 'Rate': 1048576}]")
_TEXT_OR_NONE = Kind(_optional(_text), "text or None")
FLAG = Kind(_flag, "True or False")
PATH = Kind(_path, "a path")
SECONDS = Kind(_optional(_number), "a number of seconds, or None")
_SIZE = Kind(_any_of(_text, _whole), "a number of bytes, or text such as '64m'")
_SIZE_OR_NONE = Kind(
    _optional(_any_of(_text, _whole)), "a number of bytes, text such as '64m', or None"
)
_WHOLE_OR_NONE = Kind(_optional(_whole), "a whole number, or None")
_BYTES_OR_NONE = Kind(_optional(_count), "a whole number of bytes, or None")
_ID_OR_NONE = Kind(_optional(_count), "a whole number from 0 up, or None")
_TEXTS = Kind(_each(_text), "a list of texts")
_NUMBERS = Kind(_each(_whole), "a list of whole numbers")
_COMMAND = Kind(
    _optional(_any_of(_text, _several)), "a list of arguments, or one text as a shell has it", True
)
_NETWORK = Kind(
    lambda value: value is None or value is False or _has("id")(value),
    "a network (Engine.create_network), None, or False for none at all",
)
NUMBER = Kind(_whole, "a whole number")
LIMIT = Kind(_number, "a number of seconds")
MAPPING = Kind(_is_mapping, "a dictionary", True)

KINDS: dict[str, Kind] = {
    "aliases": _TEXTS,
    "arguments": _TEXTS,
    "attach": _one_of("", "output", "all"),
    "author": TEXT,
    "broker": _TEXT_OR_NONE,
    "cap_add": _TEXTS,
    "cap_drop": _TEXTS,
    "check": FLAG,
    "code": NUMBER,
    "command": _COMMAND,
    "config": Kind(_any_of(_is_mapping, _path), "an OCI config, or the path of one or of a bundle"),
    "context": PATH,
    "container": Kind(_has("spec"), "a container"),
    "container_id": _TEXT_OR_NONE,
    "data": Kind(lambda value: isinstance(value, bytes | bytearray | memoryview), "bytes", True),
    "debug": Kind(_optional(_path), "a path or None"),
    "dockerfile": Kind(_optional(_path), "a path or None"),
    "cpus": Kind(_optional(_number), "a number of processors such as 0.5, or None"),
    "cpuset": _TEXT_OR_NONE,
    "egress": Kind(_optional(_flag), "True, False or None"),
    "entrypoint": _COMMAND,
    "durable": FLAG,
    "env": Kind(_is_mapping, "a dictionary of texts", True),
    "exec": FLAG,
    "extensions": _TEXTS,
    "expect": Kind(lambda value: isinstance(value, bytes), "bytes"),
    "files": Kind(_each(_several), "a list of (contents, mode, uid, gid)"),
    "function": Kind(callable, "a function of the container"),
    "gid": _ID_OR_NONE,
    "groups": Kind(_each(_any_of(_text, _whole)), "a list of names and numbers"),
    "host_ports": _NUMBERS,
    "home": Kind(_optional(_path), "a path or None"),
    "hostname": _TEXT_OR_NONE,
    "id_or_name": TEXT,
    "identity": _one_of("auto", "root", "range", "single"),
    "init": FLAG,
    "input": Kind(
        _optional(lambda value: isinstance(value, str | bytes | bytearray | memoryview)),
        "text, bytes or None", True,
    ),
    "log_limit_bytes": Kind(_count, "a whole number of bytes"),
    "blkio_weight": _WHOLE_OR_NONE,
    "cpu_shares": _WHOLE_OR_NONE,
    "device_read_bps": _RATES,
    "device_read_iops": _RATES,
    "device_write_bps": _RATES,
    "device_write_iops": _RATES,
    "max_containers": _WHOLE_OR_NONE,
    "max_memory_bytes": _BYTES_OR_NONE,
    "mem_limit": _SIZE_OR_NONE,
    "memswap_limit": _SIZE_OR_NONE,
    "message": TEXT,
    "method": TEXT,
    "mode": Kind(_optional(_count), "a number such as 0o755, or None"),
    "mounts": Kind(_several, "a list such as ['./data:/data:ro', Tmpfs('/tmp')]"),
    "name": _TEXT_OR_NONE,
    "network": _NETWORK,
    "no_new_privileges": FLAG,
    "number": NUMBER,
    "parents": Kind(_each(_has("id")), "a list of networks"),
    "path": PATH,
    "oom_score_adj": _WHOLE_OR_NONE,
    "pids_limit": _WHOLE_OR_NONE,
    "privileged": FLAG,
    "options": Kind(_optional(_has("args")), "BuildOptions, or None"),
    "port": NUMBER,
    "ports": Kind(_several, "a list such as [8000, '53/udp', '18000:8000']"),
    "project": Kind(_optional(_path), "a path or None"),
    "protocol": _one_of("tcp", "udp"),
    "pull": _one_of(None, "missing", "always", "never"),
    "read_only": FLAG,
    "ready": Kind(
        _optional(_has("until")), "a wait such as pytest_containers.wait.log('ready'), or None"
    ),
    "ready_timeout_s": SECONDS,
    "reference": TEXT,
    "ulimits": Kind(_is_mapping, "a dictionary such as {'nofile': 1024}"),
    "rootfs": Kind(_optional(_path), "a path or None"),
    "runner": _one_of("auto", "stub", "python"),
    "scratch": _one_of("auto", "tmpfs", "disk"),
    "scratch_size_bytes": _BYTES_OR_NONE,
    "security_opt": _TEXTS,
    "send": Kind(lambda value: isinstance(value, bytes), "bytes"),
    "shm_size": _SIZE,
    "signal": Kind(_any_of(_text, _whole), "a name such as 'HUP', or a number"),
    "size_bytes": _BYTES_OR_NONE,
    "source": PATH,
    "spec": Kind(_has("parsed_mounts"), "a ContainerSpec"),
    "start": FLAG,
    "status": Kind(
        lambda value: _whole(value) or isinstance(value, range), "a number such as 200, or a range"
    ),
    "stop_signal": Kind(
        _optional(_any_of(_text, _whole)), "a name such as 'HUP', a number, or None"
    ),
    "tags": _TEXTS,
    "target": TEXT,
    "text": FLAG,
    "text_or_regex": Kind(
        lambda value: isinstance(getattr(value, "pattern", value), str),
        "text, or a compiled regular expression of text",
    ),
    "timeout_s": SECONDS,
    "times": Kind(lambda value: _whole(value) and value > 0, "a whole number from 1 up"),
    "tls": FLAG,
    "tty": FLAG,
    "uid": _ID_OR_NONE,
    "users": Kind(_is_mapping, "a dictionary of names and passwords", True),
    "user": Kind(_optional(_any_of(_text, _whole)), "a name, a number, or None"),
    "volume": Kind(_has("id"), "a volume (Engine.create_volume)"),
    "wait": FLAG,
    "wait_ready": FLAG,
    "waits": Kind(_each(_has("until")), "waits such as pytest_containers.wait.log('ready')"),
    "warmup": Kind(_optional(_has("text")), "a Warmup, or None"),
    "workdir": _TEXT_OR_NONE,
}  # fmt: skip
"""By the name of the argument."""


def check_fields(call: str, values: Iterable[tuple[str, Any]]) -> None:
    """Refuse fields of a wrong type; those that are not in `KINDS` are not looked at."""
    for name, value in values:
        if name in KINDS:
            check(call, **{name: value})
