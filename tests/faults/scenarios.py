"""What is done while something goes wrong: each is small, and checks what it gets."""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers.layouts import Layout, busybox, layer, member
from helpers.registry import registry, upload

import pytest_containers as pc
from pytest_containers.state.seeds import seeds_of
from pytest_containers.state.warm import Stage, WarmStates

_SLEEP = ["/bin/sh", "-c", "sleep 100 & trap 'exit 3' TERM; echo up; wait"]
_LOG = pc.wait.log("up")


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something to do.

    Attributes:
        steps: Does it, with an engine.
        fresh: Each pass has a store of its own, since what is stored already is not made again.
        options: Of the engine.
    """

    steps: Callable[[pc.Engine], None]
    fresh: bool = False
    options: dict[str, object] | None = None


@contextlib.contextmanager
def scenarios(folder: Path, names: Collection[str] = ()) -> Iterator[dict[str, Scenario]]:
    """Scenarios by name, with what they need.

    Args:
        folder: A directory for that, which is empty.
        names: Which; all if there are none.
    """
    base = layer([*busybox("sleep", "cat"), *_directories("srv", "tmp")])
    top = layer([member(f"srv/{n}", f"{n}\n".encode(), mode=0o644) for n in range(8)])
    archive = f"{Layout(folder / 'layout').image([base, top], {'Cmd': _SLEEP})}:1"
    context = folder / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        f"FROM {archive}\nRUN echo run > /srv/run\nCOPY file /srv/file\nWORKDIR /srv\n"
    )
    (context / "file").write_text("copied\n")
    every = {
        "life": Scenario(_life),
        "network": Scenario(_network),
        "archive": Scenario(lambda engine: _read(engine, engine.image(archive)), fresh=True),
        "build": Scenario(lambda engine: _build(engine, context), fresh=True),
        "seed": Scenario(lambda engine: _seed(engine, archive), fresh=True),
    }
    with contextlib.ExitStack() as stack:
        if not names or "pull" in names:
            pulled = f"{stack.enter_context(registry())}/faults:1"
            upload(archive, pulled)
            every["pull"] = Scenario(lambda engine: _read(engine, engine.image(pulled)), fresh=True)
        yield {name: scenario for name, scenario in every.items() if not names or name in names}


class ProgramDied(Exception):
    """A program of the scenario has not ended as it does; it may be what was killed."""


def _check(code: int, expected: int = 0) -> None:
    if code != expected:
        raise ProgramDied(f"exit code {code}")


def _directories(*names: str) -> list[tuple[str, dict[str, object], bytes]]:
    return [member(name, type=tarfile.DIRTYPE, mode=0o755) for name in names]


def _life(engine: pc.Engine) -> None:
    """Start, exec, files, snapshot, stop, and a start on the snapshot."""
    with engine.run("host:", _SLEEP, ready=_LOG, name="first") as container:
        assert container.exec(["cat"], input=b"x", check=True).stdout == b"x"
        container.write_text("/srv/file", "text")
        assert container.read_text("/srv/file") == "text"
        image = container.snapshot()
        _check(container.stop(20), 3)
    with engine.run(image, ["cat", "/srv/file"], name="second") as container:
        _check(container.wait(20))
        assert container.logs().stdout == "text"


def _network(engine: pc.Engine) -> None:
    """Two networks, a name, a forwarded port, a limit."""
    network = engine.create_network()
    with engine.run(
        "host:", _SLEEP, ready=_LOG, name="db", network=network, ports=[80], mem_limit="64m"
    ) as container:
        assert container.port(80)
        looked = ["getent", "hosts", "db"]
        with engine.run("host:", looked, name="app", network=network) as other:
            _check(other.wait(20))
    engine.create_network([network]).remove()
    network.remove()


def _read(engine: pc.Engine, image: pc.Image, name: str = "7", text: str = "7\n") -> None:
    with engine.run(image, ["/bin/cat", f"/srv/{name}"], wait_ready=False) as container:
        _check(container.wait(20))
        assert container.logs().stdout == text


def _build(engine: pc.Engine, context: Path) -> None:
    image = engine.build(context, tags=["built:1"])
    _read(engine, image, "run", "run\n")
    _read(engine, image, "file", "copied\n")


def _fill(container: pc.Container) -> None:
    container.exec(["/bin/sh", "-c", "echo seeded > /srv/seeded"], check=True)


def _seed(engine: pc.Engine, archive: str) -> None:
    root = Path(__file__).parent
    spec = pc.ContainerSpec(archive, _SLEEP, ready=_LOG)
    stages = [
        Stage(f"seed {seed.title}", spec, seed.apply, {"the seed": seed.identity})
        for seed in seeds_of(_fill, root)
    ]
    image = WarmStates(engine, root).image("db", engine.image(archive), stages, name="db")
    _read(engine, image, "seeded", "seeded\n")
