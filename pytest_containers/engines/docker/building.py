"""Builds with the daemon's own builder (the one without BuildKit, which the plain API has)."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_containers.engines.docker.api import DaemonRefusal
from pytest_containers.engines.docker.images import split_name
from pytest_containers.model.errors import BuildError, UnsupportedError, hide_frames

if TYPE_CHECKING:
    from pytest_containers.engines.docker.core import DockerCore
    from pytest_containers.engines.docker.images import DockerImage
    from pytest_containers.model.build import BuildDisplay, BuildOptions

__tracebackhide__ = hide_frames

_TAIL_LINES = 10
_REFUSED = ("secrets", "ssh", "keep_failed", "scratch_size_bytes")


def build(
    core: DockerCore,
    context: Path,
    dockerfile: str | os.PathLike[str] | None,
    tags: Sequence[str],
    options: BuildOptions,
    display: BuildDisplay | None,
) -> DockerImage:
    """Build an image; see `DockerEngine.build`."""
    for name in _REFUSED:
        if getattr(options, name):
            raise UnsupportedError(
                f"engine 'docker' has no option {name} of builds; leave it out, or use engine "
                "'native'",
                engine="docker",
                engines=["native"],
            )
    if not context.is_dir():
        raise BuildError(f"build: the context {context} is not a directory")
    doing = f"build of {tags[0] if tags else context}"
    core.start()
    lines: list[str] = []

    def run(client: Any) -> str:
        image_id = ""
        for line in client.build(**_arguments(context, dockerfile, tags, options)):
            if "error" in line:
                detail = line.get("errorDetail") or {}
                raise BuildError(
                    f"{doing}: {line['error']}",
                    exit_code=detail.get("code"),
                    log_tail=lines[-_TAIL_LINES:],
                )
            message = str(line.get("stream", ""))
            lines.extend(filter(None, message.splitlines()))
            if message.strip() and display is not None:
                display.write(message if message.endswith("\n") else f"{message}\n")
            image_id = (line.get("aux") or {}).get("ID", image_id)
            if message.startswith("Successfully built "):
                image_id = image_id or message.split()[-1]
        return image_id

    try:
        image_id = core.api.call(doing, run)
    except DaemonRefusal as error:
        if _takes_buildkit(error.message, context, dockerfile, options):
            raise UnsupportedError(
                f"{error.message}; this is a heredoc or an option of BuildKit, which the builder "
                "of Docker's API does not know: leave it out, or use engine 'native'",
                engine="docker",
                engines=["native"],
            ) from None
        raise BuildError(error.message) from None
    for tag in tags[1:]:
        repository, version = split_name(tag)
        core.api.call(doing, lambda client, r=repository, v=version: client.tag(image_id, r, v))  # type: ignore[misc]
    image = core.finder.inspect(image_id, tags[0] if tags else image_id)
    if image is None:
        raise BuildError(f"{doing}: the image was removed meanwhile")
    return image


def _takes_buildkit(
    message: str,
    context: Path,
    dockerfile: str | os.PathLike[str] | None,
    options: BuildOptions,
) -> bool:
    """Return True for the refusal of syntax that is BuildKit's: options, and lines of a heredoc."""
    if "requires BuildKit" in message:
        return True
    if "unknown instruction" not in message:
        return False
    source = options.dockerfile_text
    if source is None:
        with contextlib.suppress(OSError):
            source = (context / (dockerfile or "Dockerfile")).read_text(errors="replace")
    return "<<" in (source or "")


def _arguments(
    context: Path,
    dockerfile: str | os.PathLike[str] | None,
    tags: Sequence[str],
    options: BuildOptions,
) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "path": os.fspath(context),
        "rm": True,
        "forcerm": True,
        "decode": True,
        "nocache": options.no_cache,
        "pull": options.pull,
        "buildargs": dict(options.args),
        "labels": dict(options.labels) or None,
        "target": options.target or None,
        "platform": options.platform or None,
        "network_mode": None if options.network == "default" else options.network,
        "tag": tags[0] if tags else None,
    }
    if options.epoch is not None:
        arguments["buildargs"].setdefault("SOURCE_DATE_EPOCH", str(options.epoch))
    if options.dockerfile_text is not None:
        with tempfile.NamedTemporaryFile("w", suffix=".Dockerfile", delete=False) as file:
            file.write(options.dockerfile_text)
        arguments["dockerfile"] = file.name
    elif dockerfile is not None:
        arguments["dockerfile"] = os.fspath(dockerfile)
    return arguments
