"""Begin or report a measurement of the lines that the test suite runs (see `sitecustomize.py`).

Usage: ``report.py begin FILE``, run the tests with ``PYTEST_CONTAINERS_TEST_COVERAGE=FILE`` and
``PYTHONPATH=tests/coverage``, then ``report.py report FILE``.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import coverage


def begin(path: Path) -> None:
    """Make the file that processes mark lines in."""
    package = _package()
    first_lines, size = {}, 0
    for module in sorted(package.rglob("*.py")):
        first_lines[module.relative_to(package).as_posix()] = size
        size += len(module.read_bytes().splitlines()) + 1
    path.write_bytes(bytes(size))
    path.chmod(0o666)  # containers' users run lines as well
    Path(f"{path}.json").write_text(json.dumps(first_lines))


def report(path: Path) -> None:
    """Print the share of lines that ran for each module, least first, and of all."""
    package = _package()
    marks = path.read_bytes()
    first_lines: dict[str, int] = json.loads(Path(f"{path}.json").read_text())
    ends = [*first_lines.values(), len(marks)]
    measured = coverage.Coverage(data_file=f"{path}.coverage", config_file=False)
    data = measured.get_data()
    data.erase()
    data.add_lines(
        {
            str(package / module): [line for line in range(end - first) if marks[first + line]]
            for (module, first), end in zip(first_lines.items(), ends[1:], strict=True)
        }
    )
    measured.exclude("if TYPE_CHECKING:")
    measured.exclude(r"@overload")
    measured.report(show_missing=True, sort="cover", skip_covered=True, precision=1)


def _package() -> Path:
    spec = importlib.util.find_spec("pytest_containers")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


if __name__ == "__main__":
    {"begin": begin, "report": report}[sys.argv[1]](Path(sys.argv[2]))
