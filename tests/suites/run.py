"""Run suites of other projects from their source on PyPI, on session services: `tox -e suites`.

Nothing of a suite is changed: a line of `containers_services` is all that it gets. What is
deselected fails for the reason that is written beside it, and not for the server. Of others that
use such servers, the source on PyPI lacks the tests (pika 1.4.4, 1.3.2, 1.0.1), all but one file of
them (PyMySQL 1.2.4, 1.1.1; 0.9.3 has them, for unittest2), or the files that they share (dramatiq
2.2.1, 1.17.1).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

_DOWNLOAD_LIMIT_S = 300.0
_SUITE_LIMIT_S = 900.0
_TEST_LIMIT_S = 120


class Suite(NamedTuple):
    """A suite.

    Attributes:
        project: Its name on PyPI.
        service: The line of `containers_services`.
        arguments: The arguments of pytest.
        files: Files beside the suite, by name.
    """

    project: str
    service: str
    arguments: tuple[str, ...]
    files: dict[str, str] = {}  # noqa: RUF012 - a default of a named tuple


# The server of Debian 12 is older than what these expect of its ACL and streams.
_NEWER_REDIS = (
    "--deselect=tests/test_commands.py::TestRedisCommands::test_acl_getuser_setuser",
    "--deselect=tests/test_commands.py::TestRedisCommands::test_acl_log",
    "--deselect=tests/test_commands.py::TestRedisCommands::test_xgroup_create_entriesread",
)
# Servers with modules, replicas, a cluster or TLS.
_OTHER_REDIS = "not onlycluster and not redismod and not replica and not ssl"
_JOBS = "tests/test_job_dependency.py::TestJobDependency"
SUITES = (
    Suite(
        "rq",
        "cache = redis@host: endpoint=6379",
        # They count processes at a moment, expect one of two workers to be first, and a default of
        # redis before 8. No -n 2: its processes would share databases.
        (
            "tests",
            "--deselect=tests/test_worker_pool.py::TestWorkerPool::test_check_workers",
            f"--deselect={_JOBS}::test_execution_order_with_dual_dependency",
            "--deselect=tests/test_worker.py::TestWorker::test_worker_configures_socket_timeout",
        ),
    ),
    Suite(
        "redis",
        "cache = redis@host: endpoint=6399 arguments=--enable-debug-command arguments=yes",
        (
            *("tests/test_commands.py", "tests/test_pipeline.py", "tests/test_pubsub.py"),
            *("tests/test_lock.py", "tests/test_connection_pool.py", "tests/test_scripting.py"),
            *("--redis-url=redis://127.0.0.1:6399/0", "-o", "addopts="),
            *("-m", _OTHER_REDIS, *_NEWER_REDIS),
        ),
    ),
    Suite(
        "pg8000",
        "db = postgres@host: user=postgres password=pw database=postgres "
        "endpoint=PGHOST={host} endpoint=PGPORT={port} seed=hstore.sql",
        # Those of auth expect a server for each of its methods; the others need pytest-benchmark.
        (
            *("test/native", "test/dbapi", "test/legacy", "-n", "2"),
            *("--ignore-glob=*/auth/*", "--ignore-glob=*/test_benchmarks.py"),
        ),
        {"hstore.sql": "CREATE EXTENSION hstore"},
    ),
    Suite(
        "SQLAlchemy",
        "db = postgres@host: user=scott password=tiger database=test endpoint=55432 seed=sa.sql",
        # What every dialect has to do, on a real database. Each worker makes one of its own.
        (
            "test/dialect/test_suite.py",
            *("--dburi", "postgresql+psycopg://scott:tiger@127.0.0.1:55432/test", "-n", "2"),
        ),
        {
            "sa.sql": "CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2; CREATE EXTENSION hstore"
        },
    ),
)


def main(names: list[str]) -> int:
    """Run the suites of these projects; all without names."""
    unknown = set(names) - {suite.project for suite in SUITES}
    if unknown:
        sys.exit(f"no suite of {', '.join(sorted(unknown))}; there are {_names(SUITES)}")
    results: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for suite in SUITES:
            if not names or suite.project in names:
                results[suite.project] = _result(suite, Path(folder))
    for project, result in results.items():
        sys.stderr.write(f"{project}: {result}\n")
    return any(not result.startswith("passed") for result in results.values())


def _names(suites: tuple[Suite, ...]) -> str:
    return ", ".join(suite.project for suite in suites)


def _result(suite: Suite, folder: Path) -> str:
    """Run a suite, and return how it went; one that cannot be fetched does not stop the others."""
    began = time.monotonic()
    try:
        tree = _source_of(suite.project, folder / suite.project)
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        return f"not fetched: {error}"
    code = _run(suite, tree)
    ended = "took too long" if code is None else f"failed with exit code {code}"
    return f"{ended if code else 'passed'} in {time.monotonic() - began:.0f} s ({tree.name})"


def _source_of(project: str, folder: Path) -> Path:
    """Fetch and unpack the source of a project; return its directory."""
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    # Not ":all:", for which the tools that the build needs would be compiled as well.
    download += ["--no-binary", project, "--dest", str(folder), project]
    subprocess.run(download, check=True, timeout=_DOWNLOAD_LIMIT_S)
    [archive] = folder.iterdir()
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    [tree] = (path for path in folder.iterdir() if path.is_dir())
    return tree


def _run(suite: Suite, tree: Path) -> int | None:
    """Run pytest on a suite; return its exit code, or None if it took too long."""
    for name, content in suite.files.items():
        (tree / name).write_text(content)
    command = [sys.executable, "-m", "pytest", "-q", "-o", f"containers_services={suite.service}"]
    command += ["-p", "no:cacheprovider", "-o", f"timeout={_TEST_LIMIT_S}", *suite.arguments]
    # Programs of the suites are found where those of this Python are.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path}
    with subprocess.Popen(command, cwd=tree, env=env, start_new_session=True) as process:
        try:
            return process.wait(_SUITE_LIMIT_S)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
