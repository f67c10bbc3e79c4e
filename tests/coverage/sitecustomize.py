"""Mark every line of the package that runs, in every process; with this folder on PYTHONPATH.

Coverage tools write their data when a process exits. A run's processes are killed, leave the file
system and close every descriptor, so each line is a byte in a shared mapping instead: it outlives
all of that, and forks inherit it. `report.py` makes the file and reads it.
"""

import json
import mmap
import os
import sys
from typing import Any

VARIABLE = "PYTEST_CONTAINERS_TEST_COVERAGE"
_PACKAGE = "pytest_containers/"


def mark_lines(path: str) -> None:
    """Mark the lines that this process and its forks run, in the file at `path`.

    Args:
        path: Bytes, one for each line; `path` and ``.json`` has the first line of each module.
    """
    with open(path + ".json") as file:
        first_lines: dict[str, int] = json.load(file)
    with open(path, "r+b") as file:
        lines = mmap.mmap(file.fileno(), 0)
    monitoring = sys.monitoring

    def mark(code: Any, line: int) -> object:
        module = code.co_filename.rpartition(_PACKAGE)[2]
        if module in first_lines and _PACKAGE in code.co_filename:
            lines[first_lines[module] + line] = 1
        return monitoring.DISABLE

    monitoring.use_tool_id(monitoring.COVERAGE_ID, "pytest-containers")
    monitoring.register_callback(monitoring.COVERAGE_ID, monitoring.events.LINE, mark)
    monitoring.set_events(monitoring.COVERAGE_ID, monitoring.events.LINE)


def follow_launchers(path: str) -> None:
    """Have launchers mark lines as well: they start without site, and so without this module."""
    boot = f"exec(open({__file__!r}).read()); mark_lines({path!r}); "
    spawn = os.posix_spawn

    def spawn_marking(program: Any, arguments: Any, *others: Any, **options: Any) -> int:
        if arguments[1:4] == ["-I", "-S", "-c"]:
            arguments = [*arguments[:4], boot + arguments[4], *arguments[5:]]
        return spawn(program, arguments, *others, **options)

    os.posix_spawn = spawn_marking


if __name__ == "sitecustomize" and VARIABLE in os.environ:
    mark_lines(os.environ[VARIABLE])
    follow_launchers(os.environ[VARIABLE])
