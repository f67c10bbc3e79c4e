"""What programs in containers leave: output and exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["created", "running", "paused", "exited", "removed"]


@dataclass(frozen=True, slots=True)
class Logs:
    """The output of a container so far (the newest part, see `ContainerSpec.log_limit_bytes`).

    Attributes:
        records: ``(time, stream, data)`` in order of arrival; time in seconds since the epoch,
            stream 1 (stdout) or 2 (stderr).
    """

    records: tuple[tuple[float, int, bytes], ...]

    @property
    def stdout_bytes(self) -> bytes:
        """All of standard output."""
        return b"".join(data for _, stream, data in self.records if stream == 1)

    @property
    def stderr_bytes(self) -> bytes:
        """All of standard error."""
        return b"".join(data for _, stream, data in self.records if stream == 2)

    @property
    def stdout(self) -> str:
        """Standard output as text; bytes that are not UTF-8 become U+FFFD."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """Standard error as text; bytes that are not UTF-8 become U+FFFD."""
        return self.stderr_bytes.decode(errors="replace")

    def __str__(self) -> str:
        return b"".join(data for _, _, data in self.records).decode(errors="replace")


@dataclass(frozen=True, slots=True)
class ExecResult:
    """The result of a program run in a container, like `subprocess.CompletedProcess`."""

    args: Sequence[str]
    returncode: int
    stdout: Any
    stderr: Any
