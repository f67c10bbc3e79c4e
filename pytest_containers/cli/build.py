"""`build`: an image from a Dockerfile."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_containers.errors import SettingsError

_FAILED_NAME = "failed-build"


def add_commands(commands: Any) -> None:
    """Add `build` to the subparsers."""
    parser = commands.add_parser(
        "build",
        help="build an image from a Dockerfile",
        description="Builds without Docker, in containers of this user, and keeps every step in "
        "the store. Writes how it goes to standard error, and the image's id to standard output.",
    )
    add = parser.add_argument
    add("context", nargs="?", default=".", help="the directory whose files may be copied")
    add("-f", "--file", metavar="PATH", help="the Dockerfile (default: CONTEXT/Dockerfile)")
    add("-t", "--tag", action="append", default=[], metavar="NAME", help="a name in the store")
    add("--target", default="", metavar="STAGE", help="the stage to build; the last otherwise")
    add("--build-arg", action="append", default=[], metavar="NAME[=VALUE]")
    add("--label", action="append", default=[], metavar="NAME=VALUE")
    add(
        "--secret", action="append", default=[], metavar="id=ID[,src=FILE|,env=NAME]",
        help="for RUN --mount=type=secret; never kept",
    )  # fmt: skip
    add(
        "--ssh", action="append", default=[], metavar="default|ID[=SOCKET]",
        help="an agent for RUN --mount=type=ssh",
    )  # fmt: skip
    add("--network", choices=("default", "none", "host"), default="default", help="of RUN")
    add("--platform", default="", help="this machine's is the only one that can be built")
    add("--pull", action="store_true", help="ask registries for newer base images")
    add("--no-cache", action="store_true", help="do every step again")
    add(
        "--keep-failed", action="store_const", const=_FAILED_NAME, default="",
        help=f"keep a failed step's files as the image {_FAILED_NAME}",
    )  # fmt: skip
    add("--keep-failed-as", dest="keep_failed", metavar="NAME", help="the same, by another name")
    add("--scratch", choices=("tmpfs", "disk"), default="tmpfs", help="where RUN writes (tmpfs)")
    add(
        "--scratch-size", metavar="SIZE",
        help="how much a RUN may write, as 500m (default on tmpfs: half of the memory)",
    )  # fmt: skip
    add("--iidfile", metavar="PATH", help="write the image's id to a file")
    add("-q", "--quiet", action="store_true", help="show only the id")
    parser.set_defaults(handler=_build)


def _build(arguments: argparse.Namespace) -> int:
    from pytest_containers.build.options import BuildOptions, epoch_of
    from pytest_containers.build.progress import Plain
    from pytest_containers.engines.native import Engine

    options = BuildOptions(
        target=arguments.target,
        args=_arguments(arguments.build_arg),
        labels=dict(item.partition("=")[::2] for item in arguments.label),
        secrets=dict(_secret(item) for item in arguments.secret),
        ssh=dict(_agent(item) for item in arguments.ssh),
        network=arguments.network, platform=arguments.platform, pull=arguments.pull,
        no_cache=arguments.no_cache, keep_failed=arguments.keep_failed, epoch=epoch_of(),
        scratch=arguments.scratch, scratch_size_bytes=_size(arguments.scratch_size),
    )  # fmt: skip
    display = None if arguments.quiet else Plain(sys.stderr)
    file = None if arguments.file is None else Path(arguments.file).absolute()
    with Engine() as engine:
        image = engine.build(
            arguments.context, dockerfile=file, tags=arguments.tag, options=options,
            display=display,
        )  # fmt: skip
    if arguments.iidfile:
        Path(arguments.iidfile).write_text(image.id)
    print(image.id)
    return 0


def _size(text: str | None) -> int | None:
    from pytest_containers.build.options import size_of

    try:
        return None if text is None else size_of(text)
    except ValueError as error:
        raise SettingsError(f"--scratch-size: {error}") from None


def _arguments(items: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE``, or ``NAME`` for the value that we have ourselves, as Docker reads it.

    It is none if we have none: scripts pass names of proxies that way.
    """
    pairs = [item.partition("=") for item in items]
    return {
        name: value if equals else os.environ[name]
        for name, equals, value in pairs
        if equals or name in os.environ
    }


def _secret(item: str) -> tuple[str, bytes | Path]:
    fields = dict(part.partition("=")[::2] for part in item.split(","))
    name = fields.get("id", "")
    unknown = set(fields) - {"id", "src", "source", "env", "type"}
    if not name or unknown:
        raise SettingsError(f"--secret {item}: expected id=ID,src=FILE or id=ID,env=NAME")
    variable = fields.get("env", "")
    source = fields.get("src") or fields.get("source")
    if variable or (source is None and name in os.environ):
        wanted = variable or name
        if wanted not in os.environ:
            raise SettingsError(f"--secret {item}: {wanted} is not in the environment")
        return name, os.environb[wanted.encode()]
    path = Path(source or name)
    if not path.is_file():
        raise SettingsError(f"--secret {item}: there is no file {path}")
    return name, path


def _agent(item: str) -> tuple[str, Path]:
    name, equals, socket = item.partition("=")
    found = socket if equals else os.environ.get("SSH_AUTH_SOCK", "")
    if not found or not Path(found).is_socket():
        raise SettingsError(
            f"--ssh {item}: there is no agent at {found or '$SSH_AUTH_SOCK, which is not set'}"
        )
    return name, Path(found)
