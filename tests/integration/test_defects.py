"""Defects in the processes of a run: who hears of them, and what goes on."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.ports import free_port

import pytest_containers as pc
from pytest_containers.runtime.wire.operations.containers import ListContainers

LAUNCHER = "a defect of pytest-containers in the launcher"
SUPERVISOR = "a defect of pytest-containers in the supervisor"


@contextmanager
def a_run(store_home: Path, *fail_in: str, **options: Any) -> Iterator[pc.Engine]:
    """An engine whose run has defects, with a container that must not notice."""
    with pc.Engine(home=store_home, fail_in=list(fail_in), **options) as engine:
        with engine.run("host:", ["sleep", "1000"], name="other") as other:
            yield engine
            assert other.status == "running"
            assert other.exec(["echo", "fine"], text=True).stdout == "fine\n"


def notes_of(error: BaseException) -> str:
    return "\n".join(error.__notes__)


def test_a_defect_of_the_launcher(store_home: Path) -> None:
    with a_run(store_home, "launcher/Forward") as engine:
        with pytest.raises(pc.ContainersError) as caught:
            engine.run("host:", ["sleep", "1000"], name="db", ports=[f"{free_port()}:80"])
        with pytest.raises(pc.ContainersError):
            engine.run("host:", ["sleep", "1000"], name="db", ports=[f"{free_port()}:80"])
        assert len(engine._core.client.call(ListContainers()).ids) == 1
    message = f"start of container 'db': {LAUNCHER}: Forward: KeyError: 'injected'"
    assert str(caught.value) == message
    notes = notes_of(caught.value)
    assert notes.startswith("In the launcher:\nTraceback (most recent call last):\n")
    assert 'File "pytest_containers/runtime/wire/dispatch.py"' in notes
    assert ", in fail\nKeyError: 'injected'" in notes


def test_a_defect_of_the_supervisor(store_home: Path) -> None:
    with a_run(store_home, "supervisor/Pause") as engine:
        with engine.run("host:", ["sleep", "1000"]) as container:
            with pytest.raises(pc.ContainersError) as caught:
                container.pause()
            assert container.status == "running"
    assert str(caught.value) == f"{SUPERVISOR}: Pause: KeyError: 'injected'"
    assert "In the supervisor:\nTraceback" in notes_of(caught.value)


def test_a_defect_of_the_network_helper(store_home: Path) -> None:
    with a_run(store_home, "network helper/LinkNetworks") as engine:
        network = engine.create_network()
        with pytest.raises(pc.ContainersError) as caught:
            engine.create_network([network])
        engine.create_network()
    where = "a defect of pytest-containers in the network helper: LinkNetworks"
    assert str(caught.value) == f"{where}: KeyError: 'injected'"
    assert "In the network helper:\nTraceback" in notes_of(caught.value)


def test_a_defect_of_a_job(store_home: Path, tmp_path: Path) -> None:
    with a_run(store_home, "job/pytest_containers.runtime.jobs.copies:pack") as engine:
        with engine.run("host:", ["sleep", "1000"], name="db") as container:
            with pytest.raises(pc.ContainersError) as caught:
                container.copy_out("/etc/hostname", tmp_path)
            container.write_text("/in", "x")
    where = "a defect of pytest-containers in the job: pytest_containers.runtime.jobs.copies:pack"
    assert str(caught.value).endswith(f"{where}: KeyError: 'injected'")
    assert str(caught.value).startswith("copy of /etc/hostname in container 'db'")
    assert "In the job:\nTraceback" in notes_of(caught.value)


def test_a_defect_where_nobody_waits_is_logged(
    store_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with a_run(store_home, "supervisor/RemoveNetwork") as engine:
        engine.create_network().remove(wait=False)
    (record,) = [one for one in caplog.records if one.name == "pytest_containers"]
    assert "the run of containers had a defect; please report it:" in record.getMessage()
    assert f"{SUPERVISOR}: RemoveNetwork: KeyError: 'injected'" in record.getMessage()


@pytest.mark.parametrize("process", ["launcher", "supervisor", "network helper"])
def test_a_defect_while_a_run_starts(process: str, store_home: Path) -> None:
    with pc.Engine(home=store_home, fail_in=[f"{process}/start"]) as engine:
        with pytest.raises(pc.ContainersError) as caught:
            engine.run("host:", ["true"])
    where = f"a defect of pytest-containers in the {process}: "
    assert str(caught.value).startswith(where)
    assert str(caught.value).endswith("KeyError: 'injected'")
    assert f"In the {process}:\nTraceback" in notes_of(caught.value)


def processes() -> dict[int, tuple[str, int]]:
    """Name and parent of every process."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
            found[int(entry.name)] = (name, int(rest.split()[1]))
    return found


def launchers() -> set[int]:
    """The launchers of this process's runs."""
    mine = ("pc-launcher", os.getpid())
    return {pid for pid, process in processes().items() if process == mine}


@contextmanager
def a_run_to_kill(
    store_home: Path, **options: Any
) -> Iterator[tuple[pc.Engine, Callable[..., None]]]:
    """An engine, and a function that kills, or signals, one of its processes, named as in ps."""
    # All children: the launcher of another engine may not have its name yet.
    others = {pid for pid, (_, parent) in processes().items() if parent == os.getpid()}
    with pc.Engine(home=store_home, **options) as engine:
        _ = engine.facts
        (launcher,) = launchers() - others

        def kill(name: str, signum: int = signal.SIGKILL) -> None:
            parts = {process: pid for pid, process in processes().items()}
            os.kill(parts.get((name, launcher), launcher), signum)

        yield engine, kill


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pc-network", "the network helper has ended"),
        ("pc-supervisor", "its supervisor was killed"),
        ("pc-launcher", "the launcher has ended"),
    ],
)
def test_a_lost_run_names_the_process(name: str, words: str, store_home: Path) -> None:
    with a_run_to_kill(store_home) as (engine, kill):
        container = engine.run("host:", ["sleep", "1000"])
        kill(name)
        with pytest.raises(pc.RunLostError) as caught:
            container.wait(60)
        with pytest.raises(pc.RunLostError) as again:
            engine.start()
    assert str(again.value) == f"{caught.value}; make another Engine"
    ended = f"the run of containers is gone: {words}; all its containers went with it"
    possible = {ended}
    if name == "pc-launcher":  # it takes the supervisor along, which may have no time for words
        possible.add(ended.replace(words, "its supervisor was killed"))
    assert str(caught.value) in possible


def test_the_removal_of_an_ended_container_waits_for_nothing(store_home: Path) -> None:
    with a_run_to_kill(store_home) as (engine, kill):
        container = engine.run("host:", ["true"], name="one")
        container.wait(60)
        kill("pc-supervisor", signal.SIGSTOP)
        try:
            container.remove()
        finally:
            kill("pc-supervisor", signal.SIGCONT)
        # Its name is free: requests are handled in their order.
        with engine.run("host:", ["true"], name="one") as again:
            assert again.wait(60) == 0


# ----------------------------------------------------------------------- the debug file


def test_the_debug_file(store_home: Path, tmp_path: Path) -> None:
    file = tmp_path / "debug"
    with a_run_to_kill(store_home, debug=str(file)) as (engine, kill):
        container = engine.run(
            "host:", ["sleep", "1000"], name="db", ports=[f"{free_port()}:80"], wait_ready=False
        )
        container.exec(["true"], env={"PASSWORD": "hunter2"})
        copied = tmp_path / "hostname"
        container.copy_out("/etc/hostname", copied)
        network = engine.create_network()
        engine.create_network([network])
        with pytest.raises(pc.ContainersError):
            container.read_bytes("/nosuch")
        container.remove()
        kill("pc-supervisor")
        with pytest.raises(pc.RunLostError) as caught:
            engine.create_network()
    lines = file.read_text().splitlines()
    words = [line.split(maxsplit=2)[2] for line in lines]
    test = f"test {os.getpid()}"
    for process, operation, about in [
        (test, "Run", "name=db image=sha256:"),
        ("supervisor", "Run", "name=db"),
        ("supervisor", "Run", "step: file system and streams made"),
        ("supervisor", "Run", "step: plan: new session; "),
        ("supervisor", "Run", "step: ports forwarded"),
        ("launcher", "Forward", "answered"),
        ("supervisor", "Exec", f"container={container.id}"),
        ("launcher", "StartJob", "function=pytest_containers.runtime.jobs.copies:pack"),
        ("network helper", "LinkNetworks", "answered"),
        ("supervisor", "Open", "path=/nosuch refused: ContainersError: /nosuch in container 'db'"),
        (test, "Open", "ContainersError: /nosuch in container 'db'"),
    ]:
        matching = [
            one for one in words if one.startswith(process) and one[16:].startswith(f"{operation} ")
        ]
        assert any(about in one for one in matching), (process, operation, about)
    assert "hunter2" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    notes = notes_of(caught.value)
    assert f"The last lines of {file}:\n" in notes
    assert any(line.endswith("asked") for line in notes.splitlines()[-5:])


def test_only_the_last_lines_come_with_the_error(store_home: Path, tmp_path: Path) -> None:
    file = tmp_path / "debug"
    with a_run_to_kill(store_home, debug=str(file)) as (engine, kill):
        for _ in range(150):
            engine._core.client.call(ListContainers())
        kill("pc-supervisor")
        with pytest.raises(pc.RunLostError) as caught:
            engine.create_network()
    assert len(file.read_text().splitlines()) > 300
    note = next(note for note in caught.value.__notes__ if note.startswith("The last lines"))
    assert len(note.splitlines()) == 201


def test_a_debug_file_that_cannot_be_written(store_home: Path, tmp_path: Path) -> None:
    with pc.Engine(home=store_home, debug=str(tmp_path / "no" / "file")) as engine:
        with pytest.raises(pc.SettingsError, match=r"debug file .*/no/file: No such file or dir"):
            engine.run("host:", ["true"])
