"""The plugin of pytest that collects what the report shows, and writes it when the run ends."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_containers.model.errors import ContainersError
from pytest_containers.model.transfer import ImageTransfer, SilentDisplay, TransferDisplay
from pytest_containers.plugin.journal import ContainerLife, Journal, current_test
from pytest_containers.plugin.timeline.document import Row, TimelineDocument, message_of
from pytest_containers.plugin.timeline.output import output_of

if TYPE_CHECKING:
    from pytest_containers.model.engine import Container

_ATTRIBUTE = "containers_timeline"
"""The attribute of test reports by which workers send their rows."""


class TimelineRecorder:
    """The recorder of a process.

    A worker of xdist sends what is new with each report of a test, so that the page has it even if
    the worker crashes later; the controller, or the only process, has the document.

    Args:
        path: The file to write.
        worker: The worker of xdist that this process is; empty for none.
    """

    def __init__(self, path: str, worker: str) -> None:
        self._path = path
        self._worker = worker
        self._is_worker = bool(worker)
        self._document = TimelineDocument()
        self._journal: Journal | None = None
        self._running: dict[int, tuple[ContainerLife, Container]] = {}
        self._outputs: dict[int, dict[str, Any]] = {}
        self._unfinished: list[int] = []
        self._lives_seen = self._uses_seen = 0
        self._images: list[Row] = []
        self._written = ""

    # ------------------------------------------------------- what others tell it

    def watch(self, journal: Journal) -> None:
        """Record the containers and states of a journal, in detail."""
        journal.detailed = True
        journal.observer = self
        self._journal = journal
        self._unfinished, self._lives_seen, self._uses_seen = [], 0, 0

    def started(self, life: ContainerLife, container: Container) -> None:
        """Note a container that runs."""
        self._running[id(life)] = (life, container)

    def ending(self, life: ContainerLife, container: Container) -> None:
        """Take the output of a container that is about to be removed."""
        self._running.pop(id(life), None)
        try:
            container.keep_logs()
            self._outputs[id(life)] = output_of(container.logs().records)
        except ContainersError:
            return  # the run is gone, with all output

    def display(self, display: TransferDisplay | None) -> TransferDisplay:
        """Return a display that also records."""
        return RecordedDisplay(display or SilentDisplay(), self._note_transfer)

    def _note_transfer(self, transfer: ImageTransfer, error: BaseException | None) -> None:
        began_at = time.time() - transfer.elapsed_s
        self._note_image(transfer.verb, transfer.name, began_at, error, transfer.size_bytes)

    @contextmanager
    def building(self, name: str) -> Iterator[None]:
        """Record the build of an image in the body."""
        began_at = time.time()
        try:
            yield
        except BaseException as error:
            self._note_image("build", name, began_at, error)
            raise
        self._note_image("build", name, began_at, None)

    def _note_image(
        self,
        verb: str,
        name: str,
        began_at: float,
        error: BaseException | None,
        size_bytes: int = 0,
    ) -> None:
        first_line = "" if error is None else (str(error).splitlines() or [""])[0]
        self._images.append(
            {
                "verb": verb,
                "name": name,
                "size_bytes": size_bytes,
                "began_at": began_at,
                "ended_at": time.time(),
                "error": "" if error is None else f"{type(error).__name__}: {first_line}",
                "test": current_test(),
                "worker": self._worker,
            }
        )

    # ----------------------------------------------------------- rows of this process

    def _collect(self) -> dict[str, list[Any]]:
        """Return the rows that are new or have changed since the last call."""
        images, self._images = self._images, []
        rows: dict[str, list[Any]] = {"containers": [], "states": [], "images": images}
        if self._journal is None:
            return rows
        lives, uses = self._journal.lives, self._journal.uses
        indexes = [*self._unfinished, *range(self._lives_seen, len(lives))]
        self._lives_seen, self._unfinished = len(lives), []
        for index in indexes:
            life = lives[index]
            output = self._outputs.pop(id(life), None)
            rows["containers"].append([index, {**dataclasses.asdict(life), "output": output}])
            if life.gone_at is None and not life.error:
                self._unfinished.append(index)
        rows["states"] = [dataclasses.asdict(use) for use in uses[self._uses_seen :]]
        self._uses_seen = len(uses)
        return rows

    def _take_last_outputs(self) -> None:
        """Take the output of containers that last until the end of the run."""
        for life, container in list(self._running.values()):
            self.ending(life, container)

    # ------------------------------------------------------------------- hooks

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add new rows to the report, if it goes to a controller."""
        report = yield
        if self._is_worker:
            setattr(report, _ATTRIBUTE, self._collect())
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add a phase of a test to the document."""
        if self._is_worker:
            return
        node = getattr(report, "node", None)  # of xdist
        worker = "" if node is None else str(node.gateway.id)
        self._document.add_rows(worker, report.__dict__.pop(_ATTRIBUTE, {}))
        self._document.add_report(report, worker)
        self._document.add_rows("", self._collect())

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Add a module that could not be imported to the document."""
        if report.failed:
            self._document.add_collection_error(report.nodeid, message_of(report))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add the last rows of a worker (in the controller)."""
        output = getattr(node, "workeroutput", None) or {}
        self._document.add_rows(node.gateway.id, output.get(_ATTRIBUTE, {}))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Write the page, once all fixtures have ended; a worker sends its last rows."""
        try:
            return (yield)
        finally:
            self._take_last_outputs()
            if self._is_worker:
                session.config.workeroutput[_ATTRIBUTE] = self._collect()  # type: ignore[attr-defined]
            else:
                self._document.add_rows("", self._collect())
                self._write(session)

    def _write(self, session: pytest.Session) -> None:
        from pytest_containers.plugin.timeline import page

        status = int(session.exitstatus)
        try:
            page.write(self._path, self._document.finish(str(session.config.rootpath), status))
        except OSError as error:
            self._written = f"report of containers: cannot write {self._path}: {error.strerror}"
        else:
            path = os.path.relpath(self._path)
            self._written = f"report of containers: {self._path if path[:2] == '..' else path}"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name the file."""
        if self._written:
            terminalreporter.write_sep("-", self._written)


class RecordedDisplay:
    """A display of transfers that also notes each one when it has ended."""

    def __init__(self, display: TransferDisplay, note: Any) -> None:
        self._display = display
        self._note = note

    def begin(self, transfer: ImageTransfer) -> None:
        """Show the beginning of a transfer."""
        self._display.begin(transfer)

    def refresh(self, transfer: ImageTransfer) -> None:
        """Show how far a transfer is."""
        self._display.refresh(transfer)

    def end(self, transfer: ImageTransfer, error: BaseException | None) -> None:
        """Show and note the end of a transfer."""
        self._display.end(transfer, error)
        self._note(transfer, error)
