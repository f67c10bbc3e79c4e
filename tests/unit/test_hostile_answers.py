"""Answers of registries and of Docker endpoints that are hostile: an error in time, in bounds."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import pytest_containers as pc
from pytest_containers.engines.docker import files
from pytest_containers.engines.docker.api import DockerApi
from pytest_containers.engines.docker.connection import Demultiplexer, DialError
from pytest_containers.engines.docker.endpoint import DockerEndpoint
from pytest_containers.engines.docker.events import DockerEvents
from pytest_containers.engines.docker.listening import open_ports
from pytest_containers.images.manifest import Descriptor
from pytest_containers.images.registry.auth import _parse_token
from pytest_containers.images.registry.client import Registry
from pytest_containers.images.registry.download import download
from pytest_containers.images.registry.settings import Place
from pytest_containers.model.engine_options import RegistrySettings
from pytest_containers.model.errors import ImageError, RegistryError

pytestmark = pytest.mark.timeout(60)
DIGEST = "sha256:" + "ab" * 32
OK = b"HTTP/1.1 200 OK\r\n"

Serve = Callable[..., str]


def _serve(listener: socket.socket, answer: Iterable[bytes]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client, suppress(OSError):
            client.recv(1 << 16)
            for part in answer:
                client.sendall(part)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Answers all requests at a loopback address, or at the path of a socket, with the same."""
    opened: list[socket.socket] = []
    with tempfile.TemporaryDirectory(prefix="pc-", dir="/tmp") as folder:

        def start(*answer: bytes, again: int = 1, unix: bool = False) -> str:
            family = socket.AF_UNIX if unix else socket.AF_INET
            listener = socket.socket(family)
            listener.bind(f"{folder}/{len(opened)}" if unix else ("127.0.0.1", 0))
            listener.listen()
            opened.append(listener)
            head, *rest = answer
            parts = _Repeated(head, rest, again)
            threading.Thread(target=_serve, args=(listener, parts), daemon=True).start()
            name = listener.getsockname()
            return str(name) if unix else f"127.0.0.1:{name[1]}"

        yield start
        for listener in opened:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


class _Repeated:
    def __init__(self, head: bytes, rest: list[bytes], times: int) -> None:
        self._head, self._rest, self._times = head, rest, times

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        for _ in range(self._times):
            yield from self._rest


# ---------------------------------------------------------------------------- Docker


@pytest.fixture
def ask(serve: Serve) -> Callable[..., str]:
    def version(*answer: bytes, again: int = 1) -> str:
        endpoint = DockerEndpoint(f"unix://{serve(*answer, again=again, unix=True)}")
        return DockerApi(endpoint).version

    return version


@pytest.mark.parametrize(
    ("answer", "again", "expected"),
    [
        ((OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nabcdef",), 1, "has no length"),
        ((OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"9" * 5000 + b"\r\n",), 1, "has no length"),
        ((OK + b"Transfer-Encoding: chunked\r\n\r\n", bytes(1 << 16)), 4096, "does not end"),
        ((OK + b"Content-Length: -5\r\n\r\n",), 1, "has no length"),
        ((OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",), 1, "has no length"),
        ((OK + b"\r\n", b"x" * (1 << 20)), 1 << 20, "more than 268435456 bytes"),
        ((OK + b"\r\n" + b"[" * 200_000,), 1, "nested too deep"),
        ((b"HTTP/1.1 500 X\r\n\r\n" + b'{"message": ' + b"[" * 200_000,), 1, "cannot use"),
        ((OK + b'\r\n{"ApiVersion": [1]}',), 1, "too old"),
        ((OK + b'\r\n{"ApiVersion": "0.' + b"9" * 5000 + b'"}',), 1, "too old"),
    ],
)  # fmt: skip
def test_an_endpoint_that_is_no_daemon(
    ask: Callable[..., str], answer: tuple[bytes, ...], again: int, expected: str
) -> None:
    with pytest.raises(pc.UnsupportedError, match=expected) as caught:
        ask(*answer, again=again)
    assert len(str(caught.value)) < 20_000 or expected == "cannot use"


def test_words_of_a_daemon_do_not_reach_the_terminal(ask: Callable[..., str]) -> None:
    words = json.dumps({"message": "\x1b]0;title\x07\n::error::text\n##vso[x]"}).encode()
    with pytest.raises(pc.UnsupportedError) as caught:
        ask(b"HTTP/1.1 500 X\r\n\r\n" + words)
    assert "\\x1b]0;title\\x07\n: :error::text\n# #vso[x]" in str(caught.value)


def test_a_frame_that_takes_all_memory() -> None:
    with pytest.raises(DialError, match="announces 4294967295 bytes"):
        list(Demultiplexer().feed(b"\1\0\0\0\xff\xff\xff\xff"))


def test_the_shell_of_an_image_writes_anything_as_its_ports() -> None:
    tables = "=\n= \n= tcp\nx y:zz q 0A\n 0: zz:1F90 0:0 0A\n 1: 00000000:0050 0:0 0A 0\n\0\n"
    assert open_ports(tables) == {(80, "tcp"): {"0.0.0.0"}}


def test_an_event_that_is_none_does_not_end_the_stream(serve: Serve) -> None:
    odd = [b"7", b"[]", b'{"Actor": 5, "Action": "die"}', b'{"Action": "die"}', b"["]
    good = json.dumps(
        {"Action": "die", "Actor": {"ID": "one", "Attributes": {"exitCode": "3"}}}
    ).encode()
    body = b"".join(line + b"\n" for line in [*odd, good])
    version = OK + b"Content-Length: 23\r\n\r\n" + b'{"ApiVersion": "1.41"}\n'
    api = DockerApi(DockerEndpoint(f"unix://{serve(version, unix=True)}"))
    assert api.version == "1.41"
    path = serve(OK + b"\r\n" + body, unix=True)
    api.endpoint = DockerEndpoint(f"unix://{path}")
    ended: list[tuple[str, int]] = []
    over = threading.Event()
    events = DockerEvents(api, "a=b", lambda *end: ended.append(end), lambda *_: None, over.set)
    events.start()
    assert over.wait(30)
    assert ended == [("", 0), ("one", 3)]
    api.close()


class _Container:
    """What `files.copy_out` needs of a container, with the answer of its daemon."""

    name, id = "one", "1"

    def __init__(self, *members: tuple[str, bytes, str, bytes]) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, kind, link, data in members:
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.size, info.mode = kind, link, len(data), 0o4755
                tar.addfile(info, io.BytesIO(data))
        self._archive = buffer.getvalue()
        self.core: Any = self
        self.api: Any = self

    def call(self, _: str, function: Callable[[Any], Any]) -> Any:
        return function(self)

    def get_archive(self, *_: object) -> tuple[list[bytes], dict[str, object]]:
        return [self._archive], {}


TOP = ("top", tarfile.DIRTYPE, "", b"")


@pytest.mark.parametrize(
    "members",
    [
        [("top/a", tarfile.SYMTYPE, "VICTIM", b""), ("top/a", tarfile.REGTYPE, "", b"evil")],
        [("top/a", tarfile.SYMTYPE, "FOLDER", b""), ("top/a/victim", tarfile.REGTYPE, "", b"evil")],
        [("top/a", tarfile.LNKTYPE, "top/../../victim", b""), ("top/a", tarfile.REGTYPE, "", b"x")],
        [("top/s", tarfile.SYMTYPE, "FOLDER", b""), ("top/a", tarfile.LNKTYPE, "top/s/victim", b"")],
        [("top/../../victim", tarfile.REGTYPE, "", b"evil")],
        [("top//VICTIM", tarfile.REGTYPE, "", b"evil")],
    ],
)  # fmt: skip
def test_an_archive_of_a_daemon_leads_nowhere(
    tmp_path: Path, members: list[tuple[str, bytes, str, bytes]]
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "copies").mkdir()
    where = {"VICTIM": str(victim), "FOLDER": str(tmp_path)}
    placed = [
        (name.replace("VICTIM", where["VICTIM"]), kind, where.get(link, link), data)
        for name, kind, link, data in members
    ]
    with suppress(pc.ContainersError):
        files.copy_out(_Container(TOP, *placed), "/top", tmp_path / "copies")  # type: ignore[arg-type]
    assert victim.read_text() == "untouched"
    assert victim.stat().st_nlink == 1
    assert sorted(os.listdir(tmp_path)) == ["copies", "victim"]


def test_what_is_no_archive(tmp_path: Path) -> None:
    container: Any = _Container()
    container._archive = b"x" * 1024
    with pytest.raises(pc.ContainersError, match=r"copy of /top .* not a number"):
        files.copy_out(container, "/top", tmp_path / "copy")


# -------------------------------------------------------------------------- registries


@pytest.fixture
def registry(serve: Serve) -> Callable[..., Registry]:
    def make(*answer: bytes, again: int = 1) -> Registry:
        address = serve(*answer, again=again)
        settings = RegistrySettings(insecure=frozenset([address]), environ={"HOME": "/nonexistent"})
        return Registry(Place(address), settings, lambda seconds: None, tries=2)

    return make


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"302 Found\r\nLocation: http://[", "redirects to 'http://\\['"),
        (b"302 Found\r\nLocation: http://[::1/\xff\x1b[2J", "redirects to"),
        (b'401 No\r\nWWW-Authenticate: Bearer realm="http://["', "realm"),
        (b"500 No\r\nRetry-After: " + b"9" * 5000, "try again in"),
        (b"500 No\r\nRetry-After: Mon, 01 Jan 0001 00:00:00 -0000", "answered 500"),
    ],
)
def test_headers_that_are_none(
    registry: Callable[..., Registry], head: bytes, expected: str
) -> None:
    client = registry(b"HTTP/1.1 " + head + b"\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(RegistryError, match=expected) as caught:
        client.manifest("a/b", "1", shown="a/b:1")
    assert str(caught.value).isprintable()
    client.close()


def test_an_error_that_is_nested_without_end(registry: Callable[..., Registry]) -> None:
    body = b'{"errors": ' + b"[" * 50_000
    client = registry(b"HTTP/1.1 403 No\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    with pytest.raises(RegistryError, match="denies access"):
        client.manifest("a/b", "1", shown="a/b:1")
    client.close()


@pytest.mark.parametrize("tags", ["5", '{"a": 1}', '"text"'])
def test_tags_that_are_no_list(registry: Callable[..., Registry], tags: str) -> None:
    body = f'{{"tags": {tags}}}'.encode()
    client = registry(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    with pytest.raises(ImageError, match="no list of tags"):
        client.tags("a/b", shown="a/b")
    client.close()


@pytest.mark.parametrize(
    ("head", "start"),
    [
        (OK + b"Content-Length: " + b"9" * 5000, 0),
        (b"HTTP/1.1 206 Part\r\nContent-Range: bytes " + b"9" * 5000 + b"-9/*", 1),
    ],
)
def test_lengths_of_thousands_of_digits(
    registry: Callable[..., Registry], head: bytes, start: int
) -> None:
    client = registry(head + b"\r\n\r\n")
    blob = Descriptor("", DIGEST, 10)
    with pytest.raises(RegistryError):
        download(client, "a/b", blob, start, lambda data: None, shown="a/b:1")
    client.close()


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"token": "t", "expires_in": 1' + b"0" * 400 + b"}"]
)
def test_tokens_that_are_none(body: bytes) -> None:
    _, seconds = _parse_token(body)
    assert 0 <= seconds <= 86400
