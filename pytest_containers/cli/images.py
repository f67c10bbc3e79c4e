"""`images`, `load`, `import` and `rm`: look at the store and fill it from files."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_containers.images.facade import Images


def add_commands(commands: Any) -> None:
    """Add the commands of the image store to the subparsers."""
    listing = commands.add_parser("images", help="list the images in the store")
    listing.add_argument("--format", choices=("table", "json"), default="table")
    listing.set_defaults(handler=_images)
    load = commands.add_parser(
        "load", help="put an OCI layout, or a tar of it or of `docker save`, into the store"
    )
    load.add_argument("path", help="the directory or file")
    load.add_argument("name", nargs="?", help="a name for it; needed if it has none")
    load.set_defaults(handler=_load)
    take = commands.add_parser(
        "import", help="make an image of a root file system: a tar or a directory"
    )
    take.add_argument("path", help="the directory or file")
    take.add_argument("name", help="a name for it: app:1")
    take.add_argument("--cmd", help="its command")
    take.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE")
    take.add_argument("-u", "--user", help="whom it runs as")
    take.add_argument("-w", "--workdir", help="its working directory")
    take.set_defaults(handler=_import)
    remove = commands.add_parser("rm", help="forget names of images")
    remove.add_argument("names", nargs="+", metavar="name")
    remove.set_defaults(handler=_remove)


@contextmanager
def _store() -> Iterator[Images]:
    from pytest_containers.engines.native import Engine

    with Engine() as engine:
        yield engine.images


def _images(arguments: argparse.Namespace) -> int:
    with _store() as images:
        found = images.list()
    if arguments.format == "json":
        print(json.dumps(found, indent=2))
        return 0
    width = max([4, *(len(one["name"]) for one in found)])
    print(f"{'NAME':<{width}}  ID")
    for one in found:
        print(f"{one['name']:<{width}}  {one['id'][7:19]}")
    return 0


def _load(arguments: argparse.Namespace) -> int:
    with _store() as images:
        print(*images.load(arguments.path, name=arguments.name), sep="\n")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    config: dict[str, Any] = {}
    if arguments.cmd is not None:
        config["Cmd"] = shlex.split(arguments.cmd)
    if arguments.env:
        path = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        named = any(item.startswith("PATH=") for item in arguments.env)
        config["Env"] = [*([] if named else path), *arguments.env]
    if arguments.user is not None:
        config["User"] = arguments.user
    if arguments.workdir is not None:
        config["WorkingDir"] = arguments.workdir
    with _store() as images:
        print(images.import_rootfs(arguments.path, arguments.name, config).id)
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    with _store() as images:
        for name in arguments.names:
            images.remove(name)
    return 0
