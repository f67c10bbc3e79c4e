"""Hostile programs under the process engine: they hang, mislead and fill nothing outside.

The engine is no security boundary. But what the test process itself does with the files of a
container must end, and must not lead out.
"""

from __future__ import annotations

import os
import socket
import struct
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.layouts import Layout, busybox, layer, member

import pytest_containers as pc
from pytest_containers.engines.choose import create_engine
from pytest_containers.engines.process import names, trees
from pytest_containers.engines.process import output as process_output
from pytest_containers.linux import landlock
from pytest_containers.model.engine import Container, Engine

pytestmark = [
    pytest.mark.skipif(not landlock.version(), reason="the kernel has no Landlock"),
    pytest.mark.timeout(60),
]
as_root = pytest.mark.needs("root")
PROGRAMS = ("sleep", "mkfifo", "ln", "rm", "mkdir", "truncate", "id")
ACCOUNTS = b"root:x:0:0::/:/bin/sh\n"


@pytest.fixture(scope="module")
def engine(store_home: Path) -> Iterator[Engine]:
    with create_engine("process", home=store_home) as engine:
        yield engine


@pytest.fixture
def box(engine: Engine) -> Iterator[Container]:
    with engine.run("host:", ["sleep", "1000"]) as container:
        yield container


@pytest.fixture(scope="module")
def tree(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    files = [member("etc/passwd", ACCOUNTS), member("data", type=tarfile.DIRTYPE)]
    layout = Layout(tmp_path_factory.mktemp("tree") / "layout")
    return layout.image([layer([*busybox(*PROGRAMS), *files])])


@pytest.fixture
def inside(engine: Engine, tree: str) -> Iterator[Container]:
    with engine.run(tree, ["/bin/sleep", "1000"]) as container:
        yield container


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "victim"
    path.write_text("untouched")
    yield path
    assert path.read_text() == "untouched"


def shell(container: Container, script: str) -> None:
    container.exec(["/bin/sh", "-c", script], check=True, timeout_s=30)


def python(container: Container, code: str) -> str:
    """Run a program of Python, in which no path is replaced."""
    coded = f"exec(bytes.fromhex('{code.encode().hex()}'))"
    result = container.exec(["python3", "-c", coded], text=True, check=True, timeout_s=20)
    return str(result.stdout).strip()


# ------------------------------------------------- what the engine itself reads and writes


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_the_record_of_private_paths_leads_nowhere(
    box: pc.Container, victim: Path, kind: str
) -> None:
    record = os.path.join(box.view.root, ".private-paths")  # type: ignore[attr-defined]
    call = (
        f"os.symlink({str(victim)!r}, {record!r})" if kind == "link" else f"os.mkfifo({record!r})"
    )
    python(box, f"import os; os.unlink({record!r}); {call}")
    box.write_text("/etc/hosts", "own")  # the machine's is shown, until the container has its own
    assert box.read_text("/etc/hosts") == "own"


def test_a_record_that_is_none(box: pc.Container) -> None:
    record = os.path.join(box.view.root, ".private-paths")  # type: ignore[attr-defined]
    python(box, f"open({record!r}, 'w').write('[[1], 2, ' + '[' * 5000)")
    with box.clone() as other:
        assert other.exec(["true"]).returncode == 0


def test_a_pipe_in_place_of_a_file(box: pc.Container) -> None:
    shell(box, "mkfifo /tmp/pipe")
    with pytest.raises(pc.ContainersError, match="not a regular file"):
        box.write_text("/tmp/pipe", "text")
    with pytest.raises(pc.ContainersError, match="not a regular file"):
        box.read_text("/tmp/pipe")


@as_root
@pytest.mark.parametrize("hosts", ["mkfifo /etc/hosts", "ln -s VICTIM /etc/hosts"])
def test_the_names_of_others_are_written_to_no_pipe_and_no_link(
    engine: Engine, tree: str, inside: pc.Container, victim: Path, hosts: str
) -> None:
    shell(inside, f"rm -f /etc/hosts; {hosts.replace('VICTIM', str(victim))}")
    with engine.run(tree, ["/bin/sleep", "1000"]) as other:
        assert other.exec(["/bin/id"]).returncode == 0


@as_root
@pytest.mark.parametrize(
    ("accounts", "expected"),
    [
        ("rm -f /etc/passwd; mkfifo /etc/passwd", "not a regular file"),
        ("truncate -s 1G /etc/passwd", "more than 16777216 bytes"),
        ("echo root:x:0:abc::/:/bin/sh > /etc/passwd", "id 'abc'"),
        ("echo root:x:0:99999999999::/:/bin/sh > /etc/passwd", "id '99999999999'"),
    ],
)
def test_accounts_that_are_none(inside: pc.Container, accounts: str, expected: str) -> None:
    shell(inside, accounts)
    with pytest.raises(pc.StartError, match=expected):
        inside.exec(["/bin/id"])


# ----------------------------------------------------------------------------- copies


@as_root
def test_a_device_is_not_copied_out(inside: pc.Container, tmp_path: Path) -> None:
    shell(inside, "ln /dev/zero /data/file")
    with pytest.raises(pc.ContainersError, match="character device"):
        inside.copy_out("/data/file", tmp_path / "file")
    inside.copy_out("/data", tmp_path / "data")
    assert os.listdir(tmp_path / "data") == []


def test_a_link_of_an_earlier_copy_is_not_written_through(
    box: pc.Container, tmp_path: Path, victim: Path
) -> None:
    target = tmp_path / "copies"
    target.mkdir()
    python(box, f"import os; os.symlink({str(victim)!r}, os.environ['TMPDIR'] + '/file')")
    box.copy_out("/tmp/file", target)
    assert os.readlink(target / "file") == str(victim)
    shell(box, "rm /tmp/file; echo evil > /tmp/file")
    box.copy_out("/tmp/file", target)
    assert (target / "file").read_text() == "evil\n"
    assert not (target / "file").is_symlink()


def test_nested_directories_without_number(box: pc.Container, tmp_path: Path) -> None:
    python(box, "import os\nos.chdir(os.environ['TMPDIR'])\nfor _ in range(600):\n os.mkdir('d')\n os.chdir('d')")  # fmt: skip
    with pytest.raises(pc.ImageError, match="directories are nested"):
        box.snapshot()
    box.copy_out("/tmp", tmp_path / "copy")
    assert sum(1 for _ in os.walk(tmp_path / "copy")) > 600


def test_holes_of_files_stay_holes(box: pc.Container, tmp_path: Path) -> None:
    shell(box, "truncate -s 200G /tmp/large; echo end >> /tmp/large; truncate -s 5000 /tmp/small")
    box.copy_out("/tmp/large", tmp_path / "large")
    status = (tmp_path / "large").stat()
    assert status.st_size == (200 << 30) + 4
    assert status.st_blocks * 512 < 1 << 20
    with box.clone() as other:
        assert other.read_bytes("/tmp/small") == bytes(5000)


def test_a_file_that_became_a_link_is_not_copied(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "file").write_text("own")
    status = (tmp_path / "file").lstat()
    (tmp_path / "file").unlink()
    (tmp_path / "file").symlink_to(victim)
    with pytest.raises(OSError, match=r"symbolic links"):
        trees._copy_file(str(tmp_path / "file"), str(tmp_path / "copy"), status)
    trees.copy_tree(str(tmp_path), str(tmp_path.with_name("copied")), owners=False)
    assert (tmp_path.with_name("copied") / "file").is_symlink()


# ------------------------------------------------------------------------------ traps

SOCKETS = """
import ctypes, errno, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
def name(result):
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "done"
said = [name(libc.socket(2, 1, -1))]
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
address = struct.pack("=H", 2) + struct.pack("!H", 9) + bytes([127, 0, 0, 1]) + bytes(8)
for start, size in ((id(sock), 3 << 30), (1 << 63, 10)):
    said.append(name(libc.sendto(sock.fileno(), ctypes.c_void_p(start), ctypes.c_size_t(size), 0, address, 16)))
said.append(name(libc.sendto(sock.fileno(), b"x", 1, ctypes.c_int(-1), address, 16)))
said.append(name(libc.bind(sock.fileno(), ctypes.c_void_p(1 << 63), 16)))
socket.create_server(("127.0.0.1", 0)).close()
print(*said)
"""


def test_numbers_that_no_program_means(box: pc.Container) -> None:
    said = python(box, SOCKETS).split()
    assert said[1] == "EMSGSIZE"
    assert said[0] == "EINVAL"
    assert said[2] in ("EINVAL", "EIO", "EFAULT")


WAITING = """
import collections, errno, socket, threading, time
server = socket.socket()
server.bind(("127.0.0.1", 0))
server.listen(0)
counts = collections.Counter()
def connect():
    with socket.socket() as sock:
        try:
            sock.connect(server.getsockname())
            counts["done"] += 1
        except OSError as error:
            counts[errno.errorcode[error.errno]] += 1
threads = [threading.Thread(target=connect, daemon=True) for _ in range(300)]
for thread in threads:
    thread.start()
while counts["EAGAIN"] < 300 - 128 - counts["done"]:
    time.sleep(0.01)
print(counts["EAGAIN"] > 0, flush=True)
"""


def test_connections_that_wait_have_a_limit(engine: pc.Engine, box: pc.Container) -> None:
    code = f"{WAITING}\nimport os\nos._exit(0)"
    assert python(box, code) == "True"
    with engine.run("host:", ["sleep", "1000"]) as other:
        assert python(other, "import socket; print(socket.socket().family.name)") == "AF_INET"


def test_questions_for_names_that_nobody_answers_have_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        monkeypatch.setattr(names, "PORT", silent.getsockname()[1])
        monkeypatch.setattr(names, "_name_servers", lambda: ("127.0.0.1",))
        known = {"one": "127.7.0.9"}
        server = names.NameServer("127.0.0.1", lambda _, name: known.get(name), lambda _: True)
        before = threading.active_count()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.connect(server.place)
            asking.settimeout(10)
            for _ in range(150):
                asking.send(_question("unknown"))
                asking.send(_question("one"))
                assert socket.inet_aton("127.7.0.9") in asking.recv(4096)
            assert threading.active_count() - before <= names._MOST_ASKING


def _question(name: str) -> bytes:
    labels = bytes([len(name)]) + name.encode() + b"\0"
    return struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!2H", 1, 1)


def test_records_of_one_byte_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_output, "_MOST_RECORDS", 10)
    output = process_output.Output(_NoRun(), 1 << 20)  # type: ignore[arg-type]
    with open(output.pipe(1), "wb", buffering=0) as writer:
        for number in range(30):
            writer.write(b"%d " % number)
            output._read(next(iter(output._open)))
    output.finish()
    assert output.logs().stdout.split() == [str(number) for number in range(20, 30)]


class _NoRun:
    def listen(self, fd: int, callback: object) -> None: ...
    def ignore(self, fd: int) -> None: ...
