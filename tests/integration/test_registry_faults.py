"""Registries that fail, lie or are misconfigured: one clear sentence, a whole store, a second try."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.layouts import Layout, digest, gzipped, layer, member, output
from helpers.registry import Proxy, Rule, upload

import pytest_containers as pc

pytestmark = [pytest.mark.slow, pytest.mark.needs("docker-registry", "skopeo")]

MakeEngine = Callable[..., pc.Engine]


@pytest.fixture(scope="module")
def noisy(
    base: bytes, plain_registry: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """A repository whose upper layer does not compress; and that one's digest."""
    top = layer([member("noise", os.urandom(2_000_000))])
    layout = Layout(tmp_path_factory.mktemp("noisy") / "layout")
    upload(f"{layout.image([base, top])}:1", f"{plain_registry}/noisy:1")
    return "noisy:1", digest(gzipped(top))


def assert_whole(engine: pc.Engine) -> None:
    """Nothing that was not verified is in the store, and nothing is left of the attempt."""
    home = engine.images.library.store.home
    assert os.listdir(home / "tmp") == []
    for path in (home / "blobs" / "sha256").glob("*"):
        assert digest(path.read_bytes()) == f"sha256:{path.name}"
    assert engine.images.list() == []


MENDED: dict[str, Callable[[str], list[Rule]]] = {
    "cut once": lambda blob: [Rule(blob, cut_after=1_000_000)],
    "cut again and again": lambda blob: [Rule(blob, times=4, cut_after=400_000)],
    "ranges are not known": lambda blob: [
        Rule(blob, cut_after=1_000_000), Rule(blob, drop_request=("range",)),
    ],
    "busy": lambda blob: [Rule(blob, times=2, status=503, headers={"Retry-After": "0"})],
    "too many requests": lambda blob: [
        Rule("manifests", times=2, status=429, headers={"Retry-After": "0"})
    ],
    "an error of the server": lambda blob: [
        Rule(blob, times=2, status=500, headers={"Retry-After": "0"})
    ],
    "slow": lambda blob: [Rule(blob, delay_s=0.5)],
    "a kept connection was closed": lambda blob: [Rule(blob, lost=True)],
}  # fmt: skip


@pytest.mark.parametrize("fault", MENDED)
def test_faults_that_pass(
    own_engine: MakeEngine, proxy: Proxy, noisy: tuple[str, str], fault: str
) -> None:
    name, blob = noisy
    proxy.rules = MENDED[fault](f"GET .*{blob}")
    assert output(own_engine(), f"{proxy.address}/{name}", "echo fine") == "fine\n"
    assert all(rule.times <= 0 for rule in proxy.rules)  # all of it has happened


FATAL: dict[str, tuple[Callable[[str], list[Rule]], str]] = {
    "flipped bit": (
        lambda blob: [Rule(blob, times=9, flip_at=1_000_000)],
        "does not match its digest|broken or truncated|instead of sha256",
    ),
    "surplus": (
        lambda blob: [Rule(blob, times=9, body=lambda body: body + b"!")],
        r"announces \d+ bytes instead of \d+",
    ),
    "too short": (
        lambda blob: [Rule(blob, times=9, body=lambda body: body[:-1])],
        r"again and again|answers with another part",
    ),
    "no progress": (
        lambda blob: [Rule(blob, times=9, cut_after=0)],
        r"breaks off after 0 of \d+ bytes, again and again",
    ),
    "another range": (
        lambda blob: [
            Rule(blob, cut_after=1_000_000),
            Rule(blob, times=9, answer_headers={"Content-Range": "bytes 5-10/11"}),
        ],
        "answers with another part than bytes 1000000-",
    ),
    "lost blob": (
        lambda blob: [Rule(blob, times=9, status=404)],
        "does not have it although the image needs it",
    ),
    "redirects in a circle": (
        lambda blob: [
            Rule(blob, times=99, status=307, headers={"Location": "/v2/noisy/blobs/BLOB"})
        ],
        "redirects more than 5 times",
    ),
    "redirect to a file": (
        lambda blob: [Rule(blob, times=9, status=307, headers={"Location": "file:///etc/passwd"})],
        "redirects to file://, which is not encrypted",
    ),
    "limited for long": (
        lambda blob: [Rule(blob, times=9, status=429, headers={"Retry-After": "3600"})],
        r"limits requests \(429\) \(it says: try again in 3600 s\); wait, log in",
    ),
    "broken for good": (
        lambda blob: [Rule(blob, times=9, status=500, headers={"Retry-After": "0"})],
        "answered 500 after 5 tries",
    ),
    "denied": (
        lambda blob: [Rule("manifests", times=9, status=403)],
        r"denies access to 'noisy' without a login \(403\)",
    ),
    "a manifest without end": (
        lambda blob: [Rule("manifests", times=9, body=lambda body: b" " * (5 << 20))],
        "more than 4194304 bytes",
    ),
    "a manifest of something else": (
        lambda blob: [Rule("manifests", times=9, answer_headers={"Content-Type": "text/html"})],
        "calls itself .* and came as 'text/html'",
    ),
    "a manifest that is none": (
        lambda blob: [Rule("manifests", times=9, body=lambda body: b"<html>")],
        "is not JSON",
    ),
}


@pytest.mark.parametrize("fault", FATAL)
def test_faults_that_stay(
    own_engine: MakeEngine, proxy: Proxy, noisy: tuple[str, str], fault: str
) -> None:
    """They are told in one sentence; once the cause is gone, the same call succeeds."""
    name, blob = noisy
    rules, words = FATAL[fault]
    proxy.rules = rules(f"GET .*{blob}")
    for rule in proxy.rules:
        rule.headers = {key: value.replace("BLOB", blob) for key, value in rule.headers.items()}
    engine = own_engine()
    with pytest.raises(pc.ImageError, match=words) as caught:
        engine.image(f"{proxy.address}/{name}")
    assert "\n" not in str(caught.value)
    assert "cannot store" not in str(caught.value)
    assert_whole(engine)
    proxy.rules = []
    assert output(engine, f"{proxy.address}/{name}", "echo fine") == "fine\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("noisy:2", "has no such image or tag in 'noisy'.*look for a typo"),
        ("noise:1", "has no such image or tag in 'noise'"),
    ],
)
def test_typos(
    own_engine: MakeEngine, plain_registry: str, noisy: Any, name: str, words: str
) -> None:
    with pytest.raises(pc.ImageNotFoundError, match=words):
        own_engine().image(f"{plain_registry}/{name}")


def changed(
    layout: Layout, base: bytes, address: str, change: Callable[[dict[str, Any]], object]
) -> str:
    """Publish an image whose manifest was changed on the way, by a proxy."""
    upload(f"{layout.image([base])}:1", f"{address}/changed:1")
    return f"{address}/changed:1"


BAD_MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "both": (lambda body: body.update(manifests=[]), "both an index and a manifest"),
    "schema 1": (
        lambda body: (body.clear(), body.update(schemaVersion=1, name="x", fsLayers=[])),
        "schema 1",
    ),
    "unknown layers": (
        lambda body: body["layers"][0].update(mediaType="application/x-squashfs"),
        "media type 'application/x-squashfs', which is not supported; tar, gzip and zstd are",
    ),
    "an artifact": (
        lambda body: body["config"].update(mediaType="application/vnd.cncf.helm.config.v1+json"),
        r"is no image but something else \('application/vnd.cncf.helm",
    ),
    "a hostile digest": (
        lambda body: body["layers"][0].update(digest="sha256:../../../etc/passwd"),
        "is not a digest",
    ),
    "one layer more": (
        lambda body: body["layers"].append(body["layers"][0]),
        "differ in number of layers",
    ),
    "a size that is none": (lambda body: body["layers"][0].update(size=-1), "lacks a size"),
    "a digest of something else": (
        lambda body: body["config"].update(digest="sha256:" + "0" * 64),
        "has no such image or tag|does not match its digest",
    ),
}


@pytest.mark.parametrize("bad", BAD_MANIFESTS)
def test_bad_manifests(
    own_engine: MakeEngine, layout: Layout, base: bytes, proxy: Proxy, plain_registry: str, bad: str
) -> None:
    upload(f"{layout.image([base])}:1", f"{plain_registry}/changed:1")
    change, words = BAD_MANIFESTS[bad]

    def body(data: bytes) -> bytes:
        document = json.loads(data)
        change(document)
        return json.dumps(document).encode()

    old = "application/vnd.docker.distribution.manifest.v1+json"
    headers: dict[str, str | None] = {"Content-Type": old} if bad == "schema 1" else {}
    proxy.rules = [Rule("manifests", times=9, body=body, answer_headers=headers)]
    engine = own_engine()
    with pytest.raises(pc.ImageError, match=words):
        engine.image(f"{proxy.address}/changed:1")
    assert_whole(engine)


def test_a_manifest_that_is_not_what_was_asked_for(
    own_engine: MakeEngine, proxy: Proxy, noisy: Any
) -> None:
    proxy.rules = [Rule("manifests", times=9)]
    wanted = "sha256:" + "1" * 64
    proxy.rules = [Rule("manifests", times=9, body=lambda body: b'{"schemaVersion": 2}', status=0)]
    with pytest.raises(pc.ImageError) as caught:
        own_engine().image(f"{proxy.address}/noisy@{wanted}")
    assert re.search("with something else|no such image", str(caught.value))


def test_nobody_is_there(own_engine: MakeEngine) -> None:
    with pytest.raises(
        pc.RegistryError, match=r"registry 127\.0\.0\.1:1 cannot be reached: Connection refused"
    ):
        own_engine().image("127.0.0.1:1/app:1")


@pytest.mark.needs("root")
def test_a_full_disk(plain_registry: str, noisy: tuple[str, str], tmp_path: Path) -> None:
    """A file system of its own, which grows when the first attempt has failed."""
    code = (
        "import subprocess, sys, pytest_containers as pc\n"
        "engine = pc.Engine(home=sys.argv[1] + '/store')\n"
        "try:\n"
        "    engine.image(sys.argv[2])\n"
        "except pc.ImageError as error:\n"
        "    print(error)\n"
        "subprocess.run(['mount', '-o', 'remount,size=200m', sys.argv[1]], check=True)\n"
        "with engine.run(sys.argv[2], ['/bin/sh', '-c', 'echo fine'], wait_ready=False) as container:\n"
        "    container.wait(60); print(container.logs().stdout, end='')\n"
    )
    script = 'mount -t tmpfs -o size=5m tmpfs "$1" && exec "$0" -c "$3" "$1" "$2"'
    command = ["unshare", "--mount", "sh", "-c", script, sys.executable, str(tmp_path),
               f"{plain_registry}/{noisy[0]}", code]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "No space left on device" in first
    assert second == "fine"


def test_no_room_in_the_store(plain_registry: str, noisy: tuple[str, str], tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk that is full in the middle of a layer."""
    code = (
        "import resource, sys, pytest_containers as pc\n"
        "engine = pc.Engine(home=sys.argv[1])\n"
        "engine.start(); engine.facts\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    engine.image(sys.argv[2])\n"
        "except pc.ImageError as error:\n"
        "    print(error)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
        "with engine.run(sys.argv[2], ['/bin/sh', '-c', 'echo fine'], wait_ready=False) as container:\n"
        "    container.wait(60); print(container.logs().stdout, end='')\n"
    )
    name = f"{plain_registry}/{noisy[0]}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store"), name],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert re.search(r"cannot store .* in .*/store: File too large; free or permit it there", first)
    assert second == "fine"


def test_a_disk_that_fails_once_a_download_has_begun(
    published: Callable[[str], str],
    plain_registry: str,
    own_engine: Callable[..., pc.Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The job that unpacks waits for the thread that downloads, which cannot begin."""
    mkdir = Path.mkdir

    def failing(path: Path, *args: Any, **options: Any) -> None:
        if path.name == "partial" and threading.current_thread().name.startswith("Thread-"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        mkdir(path, *args, **options)

    name = f"{plain_registry}/{published('failing')}"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", failing)
        assert own_engine().image(name).layers
