"""Images on the command line: pull, push, and everything about the store."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_containers.errors import SettingsError

if TYPE_CHECKING:
    from pytest_containers.images.facade import Images

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def add_commands(commands: Any) -> None:
    """Add the commands about images to the subparsers."""
    _add_moving(commands)
    _add_looking(commands)
    _add_upkeep(commands)


def _add_moving(commands: Any) -> None:
    pull = commands.add_parser(
        "pull", help="fetch images from their registries",
        description="Asks whether a name stands for something newer; fetches what is not stored.",
    )  # fmt: skip
    pull.add_argument("names", nargs="+", metavar="name")
    pull.add_argument("--policy", choices=("always", "missing"), default="always")
    _add_registry_options(pull)
    pull.set_defaults(handler=_pull)
    push = commands.add_parser("push", help="bring a stored image to a registry")
    push.add_argument("name")
    push.add_argument("target", nargs="?", help="its name there, if that is another")
    _add_registry_options(push)
    push.set_defaults(handler=_push)
    load = commands.add_parser(
        "load", help="put an OCI layout, or a tar of it or of `docker save`, into the store"
    )
    load.add_argument("path", help="the directory or file")
    load.add_argument("name", nargs="?", help="a name for it; needed if it has none")
    load.set_defaults(handler=_load)
    save = commands.add_parser("save", help="write images to a file that other tools take")
    save.add_argument("names", nargs="+", metavar="name")
    save.add_argument("-o", "--output", required=True, metavar="PATH")
    save.add_argument(
        "--form", choices=("archive", "layout"), default="archive",
        help="a tar (OCI and `docker load` at once), or a directory",
    )  # fmt: skip
    save.set_defaults(handler=_save)
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


def _add_registry_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parser.add_argument(
        "--insecure-registry", action="append", default=[], metavar="HOST[:PORT]",
        help="may be asked in plain http or with any certificate",
    )  # fmt: skip
    parser.add_argument(
        "--registry-mirror", action="append", default=[], metavar="REGISTRY=MIRROR",
        help="ask a mirror first for a registry's images",
    )  # fmt: skip


def _add_looking(commands: Any) -> None:
    listing = commands.add_parser("images", help="list the images in the store, or verify them")
    _add_format(listing)
    listing.add_argument(
        "--verify", action="store_true",
        help="look at every stored byte, mend what is damaged; exit code 1 if something stays so",
    )  # fmt: skip
    listing.set_defaults(handler=_images)
    inspect = commands.add_parser("inspect", help="tell all that is known of an image, as JSON")
    inspect.add_argument("names", nargs="+", metavar="name")
    inspect.add_argument("--format", choices=("json",), default="json")
    inspect.set_defaults(handler=_inspect)
    history = commands.add_parser("history", help="tell how an image came to be")
    history.add_argument("name")
    _add_format(history)
    history.set_defaults(handler=_history)


def _add_upkeep(commands: Any) -> None:
    tag = commands.add_parser("tag", help="give an image another name")
    tag.add_argument("name")
    tag.add_argument("other")
    tag.set_defaults(handler=_tag)
    remove = commands.add_parser("rm", help="forget names of images")
    remove.add_argument("names", nargs="+", metavar="name")
    remove.set_defaults(handler=_remove)
    prune = commands.add_parser(
        "prune", help="remove what no name leads to, and images as asked for",
        description="Never removes what a live run uses.",
    )  # fmt: skip
    prune.add_argument("-a", "--all", action="store_true", help="also all images not in use")
    prune.add_argument("--unused-for", metavar="TIME", help="also images unused for 12h, 7d, 2w")
    prune.add_argument(
        "--keep-size", metavar="SIZE", help="also the images used longest ago, down to 500M, 10G"
    )
    prune.add_argument("--dry-run", action="store_true", help="only tell")
    _add_format(prune)
    prune.set_defaults(handler=_prune)
    cache = commands.add_parser("cache", help="the whole store as one file, for caches of CI")
    actions = cache.add_subparsers(metavar="ACTION", required=True)
    for name, handler, text in (
        ("export", _cache_export, "write all images to one file of yours"),
        ("import", _cache_import, "take the images of such a file"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("path")
        action.set_defaults(handler=handler)
    clear = actions.add_parser("clear", help="empty the store")
    clear.set_defaults(handler=_cache_clear)


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("table", "json"), default="table")


@contextmanager
def _store(arguments: argparse.Namespace | None = None) -> Iterator[Images]:
    from pytest_containers import settings
    from pytest_containers.engines.native import Engine
    from pytest_containers.images.display import to_stream
    from pytest_containers.images.registry.settings import settings_of
    from pytest_containers.settings import Settings

    given = vars(arguments) if arguments is not None else {}
    chosen = Settings(
        {key: given[key] for key in ("insecure_registry", "registry_mirror") if given.get(key)}, {}
    )
    display = None if given.get("quiet") else to_stream(sys.stderr)
    with Engine(
        home=chosen.get(settings.HOME),
        identity=chosen.get(settings.IDENTITY),
        registries=settings_of(
            chosen.get(settings.INSECURE_REGISTRY),
            chosen.get(settings.REGISTRY_MIRROR),
            chosen.get(settings.HUB_PREFIX),
        ),
        display=display,
    ) as engine:
        yield engine.images


def _pull(arguments: argparse.Namespace) -> int:
    with _store(arguments) as images:
        for name in arguments.names:
            image = images.pull(name, policy=arguments.policy)
            print(image.digest)
    return 0


def _push(arguments: argparse.Namespace) -> int:
    with _store(arguments) as images:
        print(images.push(arguments.name, arguments.target))
    return 0


def _images(arguments: argparse.Namespace) -> int:
    if arguments.verify:
        return _verify(arguments)
    with _store() as images:
        found = images.list()
    if arguments.format == "json":
        print(json.dumps(found, indent=2))
        return 0
    from pytest_containers.images.display import size

    rows = [
        (one["name"], one["id"][7:19], size(one["size_bytes"]), one["created"][:10])
        for one in found
    ]
    _table(("NAME", "ID", "SIZE", "CREATED"), rows)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    with _store() as images:
        findings = images.verify()
    if arguments.format == "json":
        listed = [
            {"what": one.what, "problem": one.problem, "repaired": one.repaired} for one in findings
        ]
        print(json.dumps(listed, indent=2))
    else:
        for one in findings:
            print(f"{one.what}: {one.problem}{' (repaired)' if one.repaired else ''}")
        print(f"{len(findings)} findings" if findings else "All images are as they should be.")
    return 0 if all(one.repaired for one in findings) else 1


def _inspect(arguments: argparse.Namespace) -> int:
    with _store() as images:
        print(json.dumps([images.inspect(name) for name in arguments.names], indent=2))
    return 0


def _history(arguments: argparse.Namespace) -> int:
    with _store() as images:
        found = images.history(arguments.name)
    if arguments.format == "json":
        print(json.dumps(found, indent=2))
        return 0
    from pytest_containers.images.display import size

    rows = [
        (one["created"][:19], size(one["size_bytes"]), _one_line(one["created_by"]),
         _one_line(one["comment"]))
        for one in found
    ]  # fmt: skip
    _table(("CREATED", "SIZE", "BY", "COMMENT"), rows)
    return 0


def _one_line(text: str) -> str:
    """What an image says of itself, without what would move the cursor."""
    shown = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        print(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _load(arguments: argparse.Namespace) -> int:
    with _store() as images:
        print(*images.load(arguments.path, name=arguments.name), sep="\n")
    return 0


def _save(arguments: argparse.Namespace) -> int:
    with _store() as images:
        images.save(arguments.names, arguments.output, form=arguments.form)
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


def _tag(arguments: argparse.Namespace) -> int:
    with _store() as images:
        images.tag(arguments.name, arguments.other)
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    with _store() as images:
        for name in arguments.names:
            images.remove(name)
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    from pytest_containers.images.display import size

    unused_for = arguments.unused_for
    keep = arguments.keep_size
    with _store() as images:
        done = images.prune(
            unused_for_s=None if unused_for is None else _duration(unused_for),
            keep_bytes=None if keep is None else _bytes(keep),
            all_unused=arguments.all,
            dry_run=arguments.dry_run,
        )
    if arguments.format == "json":
        names = ("names", "states", "steps", "caches", "layers", "blobs", "freed_bytes", "held")
        print(json.dumps({name: getattr(done, name) for name in names}, indent=2))
        return 0
    for name in done.names:
        print(name)
    verb = "would be removed" if arguments.dry_run else "removed"
    print(
        f"{len(done.names)} names, {done.states} states, {done.steps} steps and {done.caches} "
        f"caches of builds, {done.layers} layers and {done.blobs} archives {verb}: "
        f"{size(done.freed_bytes)}"
    )
    if done.held:
        print(f"{done.held} layers stay: a live run uses them")
    return 0


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match is None:
        raise SettingsError(f"--unused-for {text!r} is not a time; write 90s, 30m, 12h, 7d or 2w")
    return float(match[1]) * _UNITS[match[2]]


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)b?", text.lower())
    if match is None:
        raise SettingsError(f"--keep-size {text!r} is not a size; write 500M or 10G")
    return int(float(match[1]) * _SIZES[match[2]])


def _cache_export(arguments: argparse.Namespace) -> int:
    with _store() as images:
        print(*images.cache_export(arguments.path), sep="\n")
    return 0


def _cache_import(arguments: argparse.Namespace) -> int:
    with _store() as images:
        print(*images.cache_import(arguments.path), sep="\n")
    return 0


def _cache_clear(arguments: argparse.Namespace) -> int:
    with _store() as images:
        images.cache_clear()
    return 0
