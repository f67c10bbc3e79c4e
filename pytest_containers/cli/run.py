"""The command `run`: a container that is removed when it ends."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import Any, Literal

from pytest_containers.cli import attach, limits
from pytest_containers.cli.options import (
    REGISTRIES,
    add_settings,
    engine_options,
    settings_of,
)
from pytest_containers.model import settings
from pytest_containers.model.engine import Container, Engine
from pytest_containers.model.errors import SpecError
from pytest_containers.model.kept import KeepLimits
from pytest_containers.model.spec import Bind, ContainerSpec


def add_commands(commands: Any) -> None:
    """Add `run` to the subparsers."""
    parser = commands.add_parser(
        "run",
        help="run a program in a container",
        description="Run a program in a new container, print its output and exit with its code "
        "(125: the container could not be started; 126, 127: the program could not). The container "
        "is removed at the end, unless --commit keeps its files. With --detach it goes on without "
        "the command: `ps` lists it, and `logs`, `exec`, `enter` and `rm` take its id.",
    )
    parser.add_argument(
        "--rm", action="store_true", help="remove the container at its end, which is always done"
    )
    parser.add_argument(
        "-d",
        "--detach",
        action="store_true",
        help="print the id of the container, and let it go on for --keep-time",
    )
    parser.add_argument("--name", metavar="NAME", help="name of the container, and its host name")
    parser.add_argument(
        "-i", "--interactive", action="store_true", help="pass standard input to the program"
    )
    parser.add_argument("-t", "--tty", action="store_true", help="give the program a terminal")
    parser.add_argument(
        "-e",
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="set an environment variable",
    )
    parser.add_argument(
        "-p",
        "--port",
        action="append",
        default=[],
        metavar="[HOST:]PORT[/udp]",
        help="publish a port",
    )
    parser.add_argument(
        "-v",
        "--volume",
        action="append",
        default=[],
        metavar="SOURCE:TARGET[:ro]",
        help="bind mount",
    )
    parser.add_argument("-u", "--user", metavar="USER[:GROUP]", help="user of the program")
    parser.add_argument("-w", "--workdir", metavar="PATH", help="working directory")
    parser.add_argument(
        "--entrypoint",
        metavar="PROGRAM",
        help="replace the entrypoint of the image ('' removes it)",
    )
    parser.add_argument("--init", action="store_true", help="run a PID 1 that reaps orphans")
    parser.add_argument(
        "--read-only", action="store_true", help="mount the root file system read-only"
    )
    limits.add_options(parser)
    parser.add_argument(
        "--security-opt",
        action="append",
        default=[],
        metavar="OPTION",
        help="filter system calls: seccomp=FILE (a profile) or seccomp=unconfined",
    )
    parser.add_argument(
        "--commit", metavar="NAME", help="keep the files as an image if the exit code is 0"
    )
    add_settings(parser, (settings.PULL, *REGISTRIES, settings.KEEP_TIME, settings.KEEP_LIMIT))
    parser.add_argument("image", help="host:, oci:PATH, a name in the store or of a registry")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, help="replace the command of the image"
    )
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the container, copy its output and return its exit code."""
    from pytest_containers.engines.choose import create_engine

    if arguments.interactive and arguments.tty and not attach.is_terminal():
        raise SpecError("run -i -t: standard input is not a terminal; leave -t away")
    if arguments.detach:
        return _run_detached(arguments)
    with create_engine(**engine_options(arguments)) as engine:
        engine.require("attach")
        if arguments.commit is not None:
            engine.require("snapshots")
        return _run(engine, arguments)


def _run_detached(arguments: argparse.Namespace) -> int:
    """Start the container, print its id, and let it go on."""
    from pytest_containers.engines.choose import create_engine

    for name in ("interactive", "tty", "commit"):
        if getattr(arguments, name):
            raise SpecError(
                f"run --detach --{name}: nothing would be connected to the container; leave one of "
                "the options away"
            )
    chosen = settings_of(arguments, settings.KEEP_LIMIT, settings.KEEP_TIME)
    limits_of_run = KeepLimits(chosen.get(settings.KEEP_LIMIT), chosen.get(settings.KEEP_TIME))
    with create_engine(**engine_options(arguments)) as engine:
        engine.require("keep")
        container = engine.launch(_spec(arguments), name=arguments.name)
        container.started()
        _tell_ports(container)
        engine.keep(container, test="", limits=limits_of_run)
    print(container.id)
    return 0


def _tell_ports(container: Container) -> None:
    """Tell where the published ports are."""
    for port in container.spec.parsed_ports:
        host, number = container.address(port.number, port.protocol)
        print(f"{port} is at {host}:{number}", file=sys.stderr)


def _run(engine: Engine, arguments: argparse.Namespace) -> int:
    stdin, tty = arguments.interactive, arguments.tty
    attached: Literal["output", "all"] = "all" if stdin else "output"
    with engine.launch(_spec(arguments), name=arguments.name, attach=attached) as container:
        container.started()
        _tell_ports(container)
        if tty:
            attach.terminal(container.streams[0], stdin=stdin)
        else:
            attach.pipes(container.streams, stdin=stdin)
        code = container.wait()
        if arguments.commit is not None and code == 0:
            container.commit(arguments.commit, message=shlex.join(container.command))
        return code


def _spec(arguments: argparse.Namespace) -> ContainerSpec:
    entrypoint = arguments.entrypoint
    return ContainerSpec(
        arguments.image,
        arguments.command or None,
        entrypoint=None if entrypoint is None else [entrypoint] if entrypoint else (),
        env=dict(_environment(item) for item in arguments.env),
        ports=arguments.port,
        user=arguments.user,
        workdir=arguments.workdir,
        mounts=[_bind(item) for item in arguments.volume],
        init=arguments.init,
        read_only=arguments.read_only,
        **limits.options(arguments),
        security_opt=arguments.security_opt,
        tty=arguments.tty,
    )


def _environment(item: str) -> tuple[str, str]:
    """Parse ``NAME=VALUE``, or ``NAME`` for the value in the environment, as in Docker."""
    name, equals, value = item.partition("=")
    return name, value if equals else os.environ.get(name, "")


def _bind(item: str) -> Bind:
    match item.split(":"):
        case [source, target] if source and target:
            return Bind(source, target)
        case [source, target, "ro"] if source and target:
            return Bind(source, target, read_only=True)
        case _:
            raise SpecError(f"volume {item!r} is not understood; write SOURCE:TARGET[:ro]")
