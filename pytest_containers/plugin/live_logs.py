"""``--containers-logs=live``: the output of all containers on the terminal, while they run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from pytest_containers.model.engine import Container, Engine
from pytest_containers.model.errors import ContainersError
from pytest_containers.model.harmless import harmless, whole_lines


def show_logs(engine: Engine, write: Callable[[str], None]) -> None:
    """Write each line of each container that starts from now on, after the name of the container.

    Args:
        engine: The engine; the threads end with it.
        write: Shows whole lines.
    """
    events = engine.events()

    def follow_all() -> None:
        for event in events:
            if event.kind == "start":
                with suppress(ContainersError):  # it was removed at once
                    _in_thread(_follow, engine.container(event.container), write)

    _in_thread(follow_all)


def _follow(container: Container, write: Callable[[str], None]) -> None:
    partial = {1: "", 2: ""}
    with suppress(ContainersError):  # it was removed
        for _, stream, data in container.follow():
            lines, partial[stream] = whole_lines(partial[stream] + data.decode(errors="replace"))
            write("".join(_line(container, line) for line in lines))
    write("".join(_line(container, rest) for rest in partial.values() if rest))


def _line(container: Container, line: str) -> str:
    return f"{container.name} | {harmless(line.removesuffix(chr(13)))}\n"


def _in_thread(function: Callable[..., None], *arguments: object) -> None:
    threading.Thread(
        target=function, args=arguments, name="pytest-containers logs", daemon=True
    ).start()
