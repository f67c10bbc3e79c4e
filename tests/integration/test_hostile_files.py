"""Files of others: caches with layers that are not theirs, and files that are mostly holes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.layouts import Layout, busybox, digest, gzipped, layer, member, output

import pytest_containers as pc

KEY = "ab" * 32
BASE = "sha256:" + "cd" * 32
NONCE = "a nonce"
OWN = "sha256:" + hashlib.sha256(f"state layer {NONCE}".encode()).hexdigest()
LARGE = 300 << 30

MakeEngine = Callable[..., pc.Engine]


def cache(path: Path, contents: object, files: dict[str, bytes]) -> Path:
    """Write a file as `cache export` does."""
    with tarfile.open(path, "w") as tar:
        document = contents if isinstance(contents, bytes) else json.dumps(contents).encode()
        for name, data in {**files, "pytest-containers.json": document}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def state(**changes: Any) -> dict[str, Any]:
    facts = {"title": "seed", "uses": {}, "seconds": 1.0}
    usual = {"file": "states/x", "key": KEY, "layer": OWN, "nonce": NONCE, "base": BASE}
    return {"images": [], "states": [{**usual, "facts": facts, "made_at": 1.0, **changes}]}


def test_a_state_of_a_cache_does_not_become_the_layer_of_an_image(
    own_engine: MakeEngine, layout: Layout, tmp_path: Path
) -> None:
    good = layer([*busybox("cat"), member("word", b"good\n")])
    evil = layer([*busybox("cat"), member("word", b"evil\n")])
    image = layout.image([good])
    engine = own_engine()
    path = cache(tmp_path / "cache.tar", state(layer=digest(good)), {"states/x": gzipped(evil)})
    with pytest.raises(pc.ImageError, match="no name of a state"):
        engine.images.cache_import(path)
    assert output(engine, image, "cat /word") == "good\n"


@pytest.mark.parametrize(
    "contents",
    [
        b"[" * 100_000, b"[]", b"{}", {"images": 5, "states": []}, {"images": [], "states": [7]},
        {"images": [{"name": []}], "states": [{}]}, state(facts=7), state(facts="text"),
        state(key="../../x"), state(base="/"), state(layer="sha256:../x"), state(nonce=[]),
        state(made_at="x"), state(made_at=10**400), state(file="../../etc/passwd"),
    ],
)  # fmt: skip
def test_a_cache_that_is_none(own_engine: MakeEngine, tmp_path: Path, contents: object) -> None:
    path = cache(tmp_path / "cache.tar", contents, {"states/x": gzipped(layer([]))})
    engine = own_engine()
    with pytest.raises(pc.ImageError):
        engine.images.cache_import(path)
    assert not list((tmp_path / "store" / "states").rglob("*.json"))


def test_times_of_a_cache_that_are_none(own_engine: MakeEngine, tmp_path: Path) -> None:
    odd = state(made_at=float("inf"), used_at=1e300)
    path = cache(tmp_path / "cache.tar", odd, {"states/x": gzipped(layer([]))})
    assert own_engine().images.cache_import(path) == ["state: seed"]


def test_states_travel_on_from_where_they_were_imported(
    own_engine: MakeEngine, tmp_path: Path
) -> None:
    path = cache(tmp_path / "cache.tar", state(), {"states/x": gzipped(layer([]))})
    engine = own_engine()
    assert engine.images.cache_import(path) == ["state: seed"]
    assert engine.images.cache_export(tmp_path / "second.tar") == ["state: seed"]
    other = own_engine(home=tmp_path / "other")
    assert other.images.cache_import(tmp_path / "second.tar") == ["state: seed"]


# ----------------------------------------------------------------------------- holes


@pytest.fixture
def box(engine: pc.Engine) -> Iterator[pc.Container]:
    with engine.run("host:", ["sleep", "1000"]) as container:
        yield container


MAKE = f"""
import os
with open("/srv/file", "wb") as file:
    for at in (0, 1_500_000, {LARGE}):
        file.seek(at)
        file.write(b"at %d" % at)
    file.truncate({LARGE} + 1_000_000)
os.truncate("/srv/empty", 7_000_000) if os.path.exists("/srv/empty") else None
"""


def test_a_file_of_holes_does_not_fill_the_disk_of_the_host(
    box: pc.Container, tmp_path: Path
) -> None:
    box.write_bytes("/srv/empty", b"")
    box.exec(["python3", "-c", MAKE], check=True)
    box.copy_out("/srv", tmp_path / "copy")
    status = (tmp_path / "copy" / "file").stat()
    assert status.st_size == LARGE + 1_000_000
    assert status.st_blocks * 512 < 1 << 20
    with (tmp_path / "copy" / "file").open("rb") as file:
        for at in (0, 1_500_000, LARGE):
            assert os.pread(file.fileno(), 30, at).rstrip(b"\0") == b"at %d" % at
        assert os.pread(file.fileno(), 100, 3_000_000) == bytes(100)
    assert (tmp_path / "copy" / "empty").read_bytes() == bytes(7_000_000)
    # And back.
    box.copy_in(tmp_path / "copy" / "file", "/srv/back")
    shown = box.exec(["stat", "-c", "%s", "/srv/back"], check=True, text=True).stdout
    assert int(shown) == status.st_size
