"""What the examples share: a PostgreSQL server from an image, and skips that say their reason."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

import pytest_containers as pc


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    """Skip a test whose container needs something that this machine does not offer.

    A project of your own is better off without this: there, a missing service should fail.
    """
    try:
        yield
    except pc.UnsupportedError as error:
        pytest.skip(str(error))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Skip a test that starts such a container itself."""
    try:
        yield
    except pc.UnsupportedError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def postgres_rootfs(request: pytest.FixtureRequest) -> Path:
    """A tar of a small Debian with PostgreSQL, made once and kept in pytest's cache directory."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("needs mmdebstrap to make a root filesystem: apt install mmdebstrap")
    tar = request.config.cache.mkdir("rootfs") / "postgres.tar"
    if not tar.exists():
        suite = next(
            line.partition("=")[2]
            for line in Path("/etc/os-release").read_text().splitlines()
            if line.startswith("VERSION_CODENAME=")
        )
        partial = tar.with_name(f"{os.getpid()}.tar")
        made = subprocess.run(
            [
                "mmdebstrap",
                "--quiet",
                f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
                "--variant=minbase",
                "--include=postgresql",
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                "--dpkgopt=path-exclude=/usr/share/locale/*",
                suite,
                str(partial),
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if made.returncode:
            partial.unlink(missing_ok=True)
            pytest.skip(f"mmdebstrap cannot make a root filesystem here: {made.stderr.strip()}")
        partial.rename(tar)
    return tar


# The package has initialised a database, so every test starts on a copy-on-write view of it.
START = """
echo 'host all all all trust' > /tmp/pg_hba.conf
exec /usr/lib/postgresql/*/bin/postgres \
    -c config_file="$(echo /etc/postgresql/*/main/postgresql.conf)" -c hba_file=/tmp/pg_hba.conf \
    -c listen_addresses='*' -c unix_socket_directories=/tmp -c ssl=off \
    -c fsync=off -c full_page_writes=off
"""


@pc.container_fixture
def database(postgres_rootfs: Path) -> pc.ContainerSpec:
    """A PostgreSQL server of the test's own, from the image."""
    return pc.ContainerSpec(
        f"rootfs:{postgres_rootfs}",
        ["sh", "-ec", START],
        user="postgres",
        ports=[5432],
        ready=pc.wait.log("database system is ready to accept connections"),
    )
