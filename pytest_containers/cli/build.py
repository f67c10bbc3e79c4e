"""The command `build`: an image from a Dockerfile."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_containers.cli.options import REGISTRIES, add_settings, engine_options
from pytest_containers.model import settings
from pytest_containers.model.errors import SettingsError
from pytest_containers.model.sizes import parse_size

_FAILED_NAME = "failed-build"


def add_commands(commands: Any) -> None:
    """Add `build` to the subparsers."""
    parser = commands.add_parser(
        "build",
        help="build an image from a Dockerfile",
        description="Build an image without Docker, in containers of this user. Every step is kept "
        "in the store. Progress goes to standard error, the id of the image to standard output.",
    )
    add = parser.add_argument
    add("context", nargs="?", default=".", help="the build context, a directory")
    add(
        "-f",
        "--file",
        metavar="PATH",
        help="path of the Dockerfile, or - for standard input (default: CONTEXT/Dockerfile)",
    )
    add(
        "-t",
        "--tag",
        action="append",
        default=[],
        metavar="NAME",
        help="name of the image in the store",
    )
    add("--target", default="", metavar="STAGE", help="stage to build (default: the last)")
    add(
        "--build-arg",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="set a build argument",
    )
    add("--label", action="append", default=[], metavar="NAME=VALUE", help="add a label")
    add(
        "--secret",
        action="append",
        default=[],
        metavar="id=ID[,src=FILE|,env=NAME]",
        help="secret for RUN --mount=type=secret; never stored",
    )
    add(
        "--ssh",
        action="append",
        default=[],
        metavar="default|ID[=SOCKET]",
        help="agent for RUN --mount=type=ssh",
    )
    add("--network", choices=("default", "none", "host"), default="default", help="network of RUN")
    add("--platform", default="", help="platform; only that of this machine is supported")
    add(
        "--pull",
        dest="pull_bases",
        action="store_true",
        help="ask the registries for newer base images",
    )
    add("--no-cache", action="store_true", help="run every step again")
    add(
        "--keep-failed",
        action="store_const",
        const=_FAILED_NAME,
        default="",
        help=f"keep the files of a failed step as the image {_FAILED_NAME}",
    )
    add("--keep-failed-as", dest="keep_failed", metavar="NAME", help="the same, with another name")
    add(
        "--scratch",
        choices=("tmpfs", "disk"),
        default="tmpfs",
        help="place of the files that RUN writes (default: tmpfs)",
    )
    add(
        "--scratch-size",
        metavar="SIZE",
        help="size limit for files of a RUN, such as 500m (default on tmpfs: half of the memory)",
    )
    add("--iidfile", metavar="PATH", help="write the id of the image to a file")
    add("-q", "--quiet", action="store_true", help="print the id only")
    add_settings(parser, (*REGISTRIES, settings.BUILD_CACHE))
    parser.set_defaults(handler=_build)


def _build(arguments: argparse.Namespace) -> int:
    from pytest_containers.engines.choose import create_engine
    from pytest_containers.model.build import BuildOptions, StreamBuildDisplay, epoch_of

    options = BuildOptions(
        target=arguments.target,
        args=_arguments(arguments.build_arg),
        labels=dict(item.partition("=")[::2] for item in arguments.label),
        secrets=dict(_secret(item) for item in arguments.secret),
        ssh=dict(_agent(item) for item in arguments.ssh),
        network=arguments.network,
        platform=arguments.platform,
        pull=arguments.pull_bases,
        no_cache=arguments.no_cache,
        keep_failed=arguments.keep_failed,
        epoch=epoch_of(),
        scratch=arguments.scratch,
        scratch_size_bytes=_size(arguments.scratch_size),
        dockerfile_text=_standard_input() if arguments.file == "-" else None,
    )
    display = None if arguments.quiet else StreamBuildDisplay(sys.stderr)
    file = None if arguments.file in (None, "-") else Path(arguments.file).absolute()
    with create_engine(**engine_options(arguments)) as engine:
        engine.require("builds")
        image = engine.build(
            arguments.context, dockerfile=file, tags=arguments.tag, options=options, display=display
        )
    if arguments.iidfile:
        Path(arguments.iidfile).write_text(image.id)
    print(image.id)
    return 0


def _standard_input() -> str:
    return sys.stdin.buffer.read().decode("utf-8", "surrogateescape")


def _size(value: str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except ValueError as error:
        raise SettingsError(f"--scratch-size: {error}") from None


def _arguments(items: Sequence[str]) -> dict[str, str]:
    """Parse ``NAME=VALUE``, or ``NAME`` for the value in the environment, as in Docker.

    A name that is not in the environment is ignored: scripts pass proxy variables like this.
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
        variable = variable or name
        if variable not in os.environ:
            raise SettingsError(f"--secret {item}: {variable} is not in the environment")
        return name, os.environb[variable.encode()]
    path = Path(source or name)
    if not path.is_file():
        raise SettingsError(f"--secret {item}: there is no file {path}")
    return name, path


def _agent(item: str) -> tuple[str, Path]:
    name, equals, socket = item.partition("=")
    path = socket if equals else os.environ.get("SSH_AUTH_SOCK", "")
    if not path or not Path(path).is_socket():
        raise SettingsError(
            f"--ssh {item}: there is no agent at {path or '$SSH_AUTH_SOCK, which is not set'}"
        )
    return name, Path(path)
