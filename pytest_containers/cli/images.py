"""The commands about images: pull, push, and the upkeep of the store."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_containers.cli.options import REGISTRIES, add_settings, engine_options
from pytest_containers.model.command import command_words
from pytest_containers.model.errors import SettingsError
from pytest_containers.model.harmless import harmless
from pytest_containers.model.sizes import format_size, parse_size

if TYPE_CHECKING:
    from pytest_containers.model.images import ImageStore

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def add_commands(commands: Any) -> None:
    """Add the commands about images to the subparsers."""
    _add_moving(commands)
    _add_looking(commands)
    _add_upkeep(commands)


def _add_moving(commands: Any) -> None:
    pull = commands.add_parser(
        "pull",
        help="fetch images from their registries",
        description="Fetch images that are not stored, or whose name has moved to a newer image. "
        "An interrupted pull continues where it was.",
    )
    pull.add_argument("names", nargs="+", metavar="name", help="name in a registry")
    pull.add_argument(
        "--policy",
        choices=("always", "missing", "never"),
        default="always",
        help="when to ask the registry; with never, an image that is not stored is an error "
        "(default: always)",
    )
    _add_registry_options(pull)
    pull.set_defaults(handler=_pull)
    push = commands.add_parser("push", help="upload a stored image to a registry")
    push.add_argument("name")
    push.add_argument(
        "target", nargs="?", help="name of the image in the registry (default: the same)"
    )
    _add_registry_options(push)
    push.set_defaults(handler=_push)
    load = commands.add_parser(
        "load", help="store the images of an OCI layout, or of a tar from `docker save`"
    )
    load.add_argument("path", help="directory or tar")
    load.add_argument("name", nargs="?", help="name to give; needed if the archive has none")
    load.set_defaults(handler=_load)
    save = commands.add_parser("save", help="write images to a file for other tools")
    save.add_argument("names", nargs="+", metavar="name")
    save.add_argument("-o", "--output", required=True, metavar="PATH")
    save.add_argument(
        "--form",
        choices=("archive", "layout"),
        default="archive",
        help="a tar, which is both an OCI layout and for `docker load`, or a directory",
    )
    save.set_defaults(handler=_save)
    take = commands.add_parser(
        "import", help="make an image from a root file system: a tar or a directory"
    )
    take.add_argument("path", help="directory or tar")
    take.add_argument("name", help="name of the image, such as app:1")
    take.add_argument("--cmd", help="command of the image")
    take.add_argument(
        "-e",
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="environment variable of the image",
    )
    take.add_argument("-u", "--user", help="user of the program")
    take.add_argument("-w", "--workdir", help="working directory of the program")
    take.set_defaults(handler=_import)


def _add_registry_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    add_settings(parser, REGISTRIES)


def _add_looking(commands: Any) -> None:
    listing = commands.add_parser("images", help="list the images in the store, or verify them")
    _add_format(listing)
    listing.add_argument(
        "--verify",
        action="store_true",
        help="check every stored byte and repair damage; the exit code is 1 if damage remains",
    )
    listing.set_defaults(handler=_images)
    inspect = commands.add_parser(
        "inspect", help="print all that is stored about an image, as JSON"
    )
    inspect.add_argument("names", nargs="+", metavar="name")
    inspect.add_argument("--format", choices=("json",), default="json")
    inspect.set_defaults(handler=_inspect)
    history = commands.add_parser("history", help="list the steps that made an image")
    history.add_argument("name")
    _add_format(history)
    history.set_defaults(handler=_history)


def _add_upkeep(commands: Any) -> None:
    tag = commands.add_parser("tag", help="give an image a second name")
    tag.add_argument("name")
    tag.add_argument("other")
    tag.set_defaults(handler=_tag)
    remove = commands.add_parser("rmi", help="remove names of images")
    remove.add_argument("names", nargs="+", metavar="name")
    remove.set_defaults(handler=_remove)
    prune = commands.add_parser(
        "prune",
        help="remove unnamed data, and images that the options select",
        description="Remove data that no name refers to, and the images that the options select. "
        "Data in use by a live run is kept.",
    )
    prune.add_argument(
        "-a", "--all", action="store_true", help="also remove all images that are not in use"
    )
    prune.add_argument(
        "--unused-for", metavar="TIME", help="also remove images unused for 12h, 7d, 2w"
    )
    prune.add_argument(
        "--keep-size",
        metavar="SIZE",
        help="also remove the least recently used images, down to 500M, 10G",
    )
    prune.add_argument("--dry-run", action="store_true", help="only report")
    _add_format(prune)
    prune.set_defaults(handler=_prune)
    cache = commands.add_parser("cache", help="the whole store as one file, for CI caches")
    actions = cache.add_subparsers(metavar="ACTION", required=True)
    for name, handler, summary in (
        ("export", _cache_export, "write all images to one file"),
        ("import", _cache_import, "store the images of such a file"),
    ):
        action = actions.add_parser(name, help=summary)
        action.add_argument("path")
        action.set_defaults(handler=handler)
    clear = actions.add_parser("clear", help="empty the store")
    clear.set_defaults(handler=_cache_clear)

    shared = commands.add_parser("states", help="states that machines share through a registry")
    shared_actions = shared.add_subparsers(metavar="ACTION", required=True)
    old = shared_actions.add_parser(
        "prune",
        help="remove old states, and steps of builds, from a repository",
        description="Remove states and steps of builds by their age from a repository that "
        "machines share. Its registry must permit deletion, and frees the space when it collects "
        "garbage.",
    )
    old.add_argument("repository", help="as in containers_states: registry.example/ci/states")
    old.add_argument(
        "--older-than", metavar="TIME", default="30d", help="age: 12h, 7d, 2w (default: 30d)"
    )
    old.add_argument("--dry-run", action="store_true", help="only report")
    add_settings(old, REGISTRIES)
    old.set_defaults(handler=_states_prune)


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("table", "json"), default="table")


@contextmanager
def _store(arguments: argparse.Namespace | None = None) -> Iterator[ImageStore]:
    from pytest_containers.engines.choose import create_engine
    from pytest_containers.model.display import to_stream

    display = None if getattr(arguments, "quiet", False) else to_stream(sys.stderr)
    with create_engine(**engine_options(arguments), display=display) as engine:
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
        summaries = images.list()
    if arguments.format == "json":
        print(json.dumps(summaries, indent=2))
        return 0
    rows = [
        (image["name"], image["id"][7:19], format_size(image["size_bytes"]), image["created"][:10])
        for image in summaries
    ]
    _table(("NAME", "ID", "SIZE", "CREATED"), rows)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    with _store() as images:
        findings = images.verify()
    if arguments.format == "json":
        listed = [
            {"what": finding.subject, "problem": finding.problem, "repaired": finding.repaired}
            for finding in findings
        ]
        print(json.dumps(listed, indent=2))
    else:
        for finding in findings:
            repaired = " (repaired)" if finding.repaired else ""
            print(harmless(f"{finding.subject}: {finding.problem}{repaired}"))
        print(f"{len(findings)} findings" if findings else "All images are intact.")
    return 0 if all(finding.repaired for finding in findings) else 1


def _inspect(arguments: argparse.Namespace) -> int:
    with _store() as images:
        print(json.dumps([images.inspect(name) for name in arguments.names], indent=2))
    return 0


def _history(arguments: argparse.Namespace) -> int:
    with _store() as images:
        steps = images.history(arguments.name)
    if arguments.format == "json":
        print(json.dumps(steps, indent=2))
        return 0
    rows = [
        (
            step["created"][:19],
            format_size(step["size_bytes"]),
            _one_line(step["created_by"]),
            _one_line(step["comment"]),
        )
        for step in steps
    ]
    _table(("CREATED", "SIZE", "BY", "COMMENT"), rows)
    return 0


def _one_line(value: str) -> str:
    """Return a value of an image as one short line without control characters."""
    shown = " ".join("".join(letter if letter.isprintable() else " " for letter in value).split())
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
        config["Cmd"] = command_words(arguments.cmd, "--cmd")
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
    remove_names(arguments.names)
    return 0


def remove_names(names: Sequence[str]) -> None:
    """Remove names of images from the store."""
    with _store() as images:
        for name in names:
            images.remove(name)


def _prune(arguments: argparse.Namespace) -> int:
    unused_for = arguments.unused_for
    keep = arguments.keep_size
    with _store() as images:
        pruned = images.prune(
            unused_for_s=None if unused_for is None else _duration(unused_for),
            keep_bytes=None if keep is None else _bytes(keep),
            all_unused=arguments.all,
            dry_run=arguments.dry_run,
        )
    if arguments.format == "json":
        names = ("names", "states", "steps", "caches", "layers", "blobs", "freed_bytes", "held")
        print(json.dumps({name: getattr(pruned, name) for name in names}, indent=2))
        return 0
    for name in pruned.names:
        print(name)
    verb = "would be removed" if arguments.dry_run else "removed"
    print(
        f"{len(pruned.names)} names, {pruned.states} states, {pruned.steps} steps and "
        f"{pruned.caches} caches of builds, {pruned.layers} layers and {pruned.blobs} archives "
        f"{verb}: {format_size(pruned.freed_bytes)}"
    )
    if pruned.held:
        print(f"{pruned.held} layers are kept: a live run uses them")
    return 0


def _states_prune(arguments: argparse.Namespace) -> int:
    from pytest_containers.engines.choose import prune_shared

    done = prune_shared(
        arguments.repository,
        engine_options(arguments)["registries"],
        older_than_s=_duration(arguments.older_than, "--older-than"),
        dry_run=arguments.dry_run,
    )
    verb = "would be removed" if arguments.dry_run else "removed"
    print(f"{done.removed} states and steps {verb}, {done.kept} kept")
    return 0


def _duration(value: str, option: str = "--unused-for") -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", value)
    if match is None:
        raise SettingsError(f"{option} {value!r} is not a time; write 90s, 30m, 12h, 7d or 2w")
    return float(match[1]) * _UNITS[match[2]]


def _bytes(value: str) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        raise SettingsError(f"--keep-size: {error}") from None


def _cache_export(arguments: argparse.Namespace) -> int:
    with _store() as images:
        print(*map(harmless, images.cache_export(arguments.path)), sep="\n")
    return 0


def _cache_import(arguments: argparse.Namespace) -> int:
    with _store() as images:
        print(*map(harmless, images.cache_import(arguments.path)), sep="\n")
    return 0


def _cache_clear(arguments: argparse.Namespace) -> int:
    with _store() as images:
        images.cache_clear()
    return 0
