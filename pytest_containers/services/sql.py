"""What SQL servers have in common."""

from __future__ import annotations

import copy
import gzip
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from pytest_containers.errors import ExecError, hide_frames
from pytest_containers.services.base import Service

__tracebackhide__ = hide_frames


class SqlService(Service):
    """A service that knows databases: it runs SQL and clones them."""

    scripts: ClassVar[tuple[str, ...]] = (".sql", ".sql.gz", ".sh")

    @abstractmethod
    def sql(self, text: str | bytes, *, database: str | None = None) -> list[list[str]]:
        """Run SQL with the server's own client program; no driver is needed.

        Args:
            text: One or more statements.
            database: None is its own.

        Returns:
            The rows of all statements, one after the other, each a list of texts; NULL is an
            empty text.

        Raises:
            ExecError: A statement failed; none after it was run.
        """

    def run_script(self, path: Path) -> None:
        """``.sql``, ``.sql.gz``, and ``.sh`` for the shell of the container."""
        if path.name.endswith(".sql"):
            self.sql(path.read_bytes())
        elif path.name.endswith(".sql.gz"):
            self.sql(gzip.decompress(path.read_bytes()))
        else:
            super().run_script(path)

    def of_database(self, name: str) -> Self:
        """The same server, and another of its databases."""
        other = copy.copy(self)
        other.database = name
        return other

    @abstractmethod
    def clone_database(self, name: str, template: str) -> None:
        """Make database `name` as a copy of `template`, which nobody is connected to."""

    @abstractmethod
    def drop_database(self, name: str) -> None:
        """Remove a database and end who is connected to it; one that is not there is fine."""

    def _client(self, command: Sequence[str], text: str | bytes, **options: Any) -> str:
        """Run a client program on SQL; what it wrote.

        Raises:
            ExecError: With the server's message.
        """
        data = text.encode() if isinstance(text, str) else text
        result = self.exec(command, input=data, **options)
        if result.returncode:
            said = result.stderr.decode(errors="replace").strip()
            raise ExecError(
                f"SQL in {self.name!r} failed: {said}", returncode=result.returncode,
                stdout=result.stdout, stderr=result.stderr,
            )  # fmt: skip
        return str(result.stdout.decode())
