"""Scripts of a first start in ``/docker-entrypoint-initdb.d``, where no entrypoint runs them."""

from __future__ import annotations

import gzip
import lzma
import posixpath
from typing import Protocol

from pytest_containers.model.container import Container
from pytest_containers.model.errors import SpecError, hide_frames
from pytest_containers.services.mounted import INIT_SCRIPTS
from pytest_containers.services.steps import run_step

__tracebackhide__ = hide_frames

# As there: a script that is executable is a program, another is read by the shell.
_SHELL = (
    'if [ -x "$1" ]; then exec "$1"; fi; '
    'exec "$(command -v bash || command -v sh)" -ec \'. "$1"\' sh "$1"'
)
_PACKED = {".sql.gz": gzip.decompress, ".sql.xz": lzma.decompress}


class RunsSql(Protocol):
    """A server that runs SQL of a first start."""

    @property
    def container(self) -> Container:
        """Its container."""

    def run_init_sql(self, title: str, sql: bytes) -> None:
        """Run SQL as the superuser, in the database of the service."""


def run_scripts(server: RunsSql, user: str) -> None:
    """Run the scripts in the order of their names: ``.sh``, ``.sql``, ``.sql.gz``, ``.sql.xz``.

    Other files are left alone, as by the entrypoints of the official images.

    Args:
        user: The user of the container who runs ``.sh`` scripts.

    Raises:
        ExecError: A script failed; with its last lines.
        SpecError: A script is packed in a way that is not understood.
    """
    container = server.container
    listing = container.exec(["sh", "-c", f"ls -1 {INIT_SCRIPTS} 2>/dev/null"])
    for name in sorted(listing.stdout.decode().splitlines()):
        path, title = posixpath.join(INIT_SCRIPTS, name), f"{INIT_SCRIPTS}/{name}"
        if name.endswith(".sh"):
            run_step(container, title, ["sh", "-c", _SHELL, "sh", path], user=user)
        elif name.endswith(".sql"):
            server.run_init_sql(title, container.read_bytes(path))
        elif name.endswith(tuple(_PACKED)):
            unpack = next(unpack for suffix, unpack in _PACKED.items() if name.endswith(suffix))
            server.run_init_sql(title, unpack(container.read_bytes(path)))
        elif name.endswith(".sql.zst"):
            raise SpecError(
                f"{title} cannot be unpacked without the entrypoint of the official image; pack "
                "it with gzip or xz",
                path=title,
            )
