"""`run`: one container from the shell, gone when it ends."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import Any

from pytest_containers.cli import attach
from pytest_containers.errors import SpecError
from pytest_containers.spec import Bind, ContainerSpec


def add_commands(commands: Any) -> None:
    """Add `run` to the subparsers."""
    parser = commands.add_parser(
        "run",
        help="run a program in a container of its own",
        description="Runs until the program ends, passes its output on and exits with its code "
        "(125: no container could be started; 126, 127: its program). What it wrote is dropped, "
        "unless --commit keeps it.",
    )
    parser.add_argument("-i", "--interactive", action="store_true", help="pass our input on")
    parser.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]")
    parser.add_argument("-p", "--port", action="append", default=[], metavar="[HOST:]PORT[/udp]")
    parser.add_argument("-v", "--volume", action="append", default=[], metavar="SOURCE:TARGET[:ro]")
    parser.add_argument("-u", "--user", metavar="USER[:GROUP]")
    parser.add_argument("-w", "--workdir", metavar="PATH")
    parser.add_argument("--entrypoint", metavar="PROGRAM", help="replaces the image's ('' removes)")
    parser.add_argument("--init", action="store_true", help="run a PID 1 that reaps orphans")
    parser.add_argument("--read-only", action="store_true", help="a read-only root")
    parser.add_argument(
        "--commit", metavar="NAME", help="when it has ended with 0, keep its files as an image"
    )
    parser.add_argument("image", help="a reference: host:, oci:PATH, a name in the store …")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="replaces the image's command")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Run it, copy its output to ours and return its exit code."""
    from pytest_containers.engines.native import Engine

    stdin, tty = arguments.interactive, arguments.tty
    if stdin and tty and not attach.is_terminal():
        raise SpecError("run -i -t: standard input is not a terminal; leave -t away")
    with (
        Engine() as engine,
        engine.begin(_spec(arguments), attach="all" if stdin else "output") as container,
    ):
        container.started()
        for port in container.spec.parsed_ports:
            host, number = container.address(port.number, port.protocol)
            print(f"{port} is at {host}:{number}", file=sys.stderr)
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
        tty=arguments.tty,
    )


def _environment(item: str) -> tuple[str, str]:
    """``NAME=VALUE``, or ``NAME`` for the value that we have ourselves, as Docker reads it."""
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
