"""The base of SQL servers."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from pytest_containers.model.errors import ExecError, hide_frames
from pytest_containers.services.service import Service

__tracebackhide__ = hide_frames


class SqlService(Service):
    """A service with databases, which it can clone, and an SQL client."""

    has_databases: ClassVar[bool] = True
    scripts: ClassVar[tuple[str, ...]] = (".sql", ".sql.gz", ".sh")

    @abstractmethod
    def sql(self, text: str | bytes, *, database: str | None = None) -> list[list[str]]:
        """Run SQL with the client program of the server; no driver is needed.

        Args:
            text: One or more statements.
            database: The database; None is the one of the service.

        Returns:
            The rows of all statements in order, each a list of strings; NULL is an empty string.

        Raises:
            ExecError: A statement failed; later ones were not run.
        """

    def run_script(self, path: Path) -> None:
        """Run a ``.sql``, ``.sql.gz`` or ``.sh`` script."""
        if path.name.endswith(".sql"):
            self.sql(path.read_bytes())
        elif path.name.endswith(".sql.gz"):
            import gzip

            self.sql(gzip.decompress(path.read_bytes()))
        else:
            super().run_script(path)

    def of_database(self, name: str) -> Self:
        """Return a copy that uses another database of the same server."""
        other = copy.copy(self)
        other.database = name
        return other

    @abstractmethod
    def clone_database(self, name: str, template: str) -> None:
        """Make database `name` as a copy of `template`, which must have no connections."""

    @abstractmethod
    def drop_database(self, name: str) -> None:
        """Remove a database and close its connections; idempotent."""

    def _client(self, command: Sequence[str], sql: str | bytes, **options: Any) -> str:
        """Run SQL with a client program and return its output.

        Raises:
            ExecError: A statement failed; with the message of the server.
        """
        script = sql.encode() if isinstance(sql, str) else sql
        result = self.exec(command, input=script, **options)
        if result.returncode:
            message = result.stderr.decode(errors="replace").strip()
            raise ExecError(
                f"SQL in {self.name!r} failed: {message}",
                returncode=result.returncode,
                stdout=result.stdout,
                stderr=result.stderr,
            )
        return str(result.stdout.decode())
