"""Bad input: one clear sentence, nothing left behind, and the next container starts."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pytest_containers as pc
from pytest_containers.runtime import refusals
from pytest_containers.runtime.wire.operations.containers import ListContainers


@pytest.fixture(autouse=True)
def _the_next_one_starts(engine: pc.Engine) -> Iterator[None]:
    before = len(engine._core.client.call(ListContainers()).ids)
    yield
    assert len(engine._core.client.call(ListContainers()).ids) == before
    with engine.run("host:", ["true"]) as container:
        assert container.wait(60) == 0


CASES: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (pc.StartError, "command 'nosuch' was not found in the container's PATH", {"command": ["nosuch"]}),
    (pc.StartError, "command '/etc/passwd' cannot be executed: Permission denied", {"command": ["/etc/passwd"]}),
    (pc.StartError, "working directory '/etc/passwd' is not a directory", {"workdir": "/etc/passwd"}),
    (pc.StartError, "one is a directory and the other is not", {"mounts": [pc.Bind("/tmp", "/etc/passwd")]}),
    (pc.SpecError, "working directory 'relative' is not absolute", {"workdir": "relative"}),
    (pc.StartError, "user 'nosuch' is not in the container's /etc/passwd", {"user": "nosuch"}),
    (pc.StartError, "group 'nosuch' is not in the container's /etc/group", {"user": "root:nosuch"}),
    (pc.StartError, "beyond the largest id", {"user": "99999999999"}),
    (pc.SpecError, "port 0 is not a whole number from 1 to 65535", {"ports": [0]}),
    (pc.SpecError, "port 70000 is not", {"ports": ["70000"]}),
    (pc.SpecError, "port 'eighty' is not understood", {"ports": ["eighty"]}),
    (pc.SpecError, "port 80/tcp is listed twice", {"ports": [80, "80/tcp"]}),
    (pc.SpecError, "environment name 'A=B' is not usable", {"env": {"A=B": "1"}}),
    (pc.SpecError, "environment name '' is not usable", {"env": {"": "1"}}),
    (pc.SpecError, "the value must be text without NUL", {"env": {"A": "x\0y"}}),
    (pc.SpecError, "contains a NUL", {"command": ["echo", "x\0y"]}),
    (pc.SpecError, "capability 'CAP_NOSUCH' does not exist", {"cap_add": ["NOSUCH"]}),
    (pc.SpecError, "resource limit 'nosuch' is not one of", {"ulimits": {"nosuch": 1}}),
    (pc.SpecError, "'nosuch' is not an option of a container", {"nosuch": 1}),
    (pc.SpecError, "name 'bad name' is not usable as a host name", {"aliases": ["bad name"]}),
    (pc.SpecError, "no command", {"command": [], "entrypoint": []}),
    (pc.SpecError, r"'\ud800' has a half of a surrogate pair", {"command": ["echo", "\ud800"]}),
    (pc.SpecError, r"'A=\ud800' has a half of a surrogate pair", {"env": {"A": "\ud800"}}),
    (pc.StartError, r"command '/\udcff' is not there", {"command": ["/\udcff"]}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "words", "options"), CASES)
def test_a_spec_that_cannot_start(
    engine: pc.Engine, kind: type[Exception], words: str, options: dict[str, Any]
) -> None:
    wanted = {"command": ["true"], **options}
    with pytest.raises(kind) as caught:
        engine.run("host:", wait_ready=False, **wanted)
    assert words in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


@pytest.mark.parametrize(
    ("reference", "words"),
    [("127.0.0.1:1/nosuch:1", "image '127.0.0.1:1/nosuch:1': registry .* Connection refused"), ("", "is empty"), ("BAD NAME", "not valid"),
     ("oci:/nosuch", "does not exist"), ("rootfs:/nosuch", "No such file"),
     ("docker-archive:/nosuch", "does not exist"), ("host:?path=/nosuch", "does not exist"),
     ("host:?nosuch=1", "is not one of")],
)  # fmt: skip
def test_an_image_that_is_not_there(engine: pc.Engine, reference: str, words: str) -> None:
    with pytest.raises(pc.ImageError, match=words):
        engine.run(reference, ["true"])


def test_a_container_that_ends_before_it_is_ready(engine: pc.Engine) -> None:
    with pytest.raises(pc.ExitedError, match="exit code 3 before") as caught:
        engine.run("host:", ["sh", "-c", "echo the reason >&2; exit 3"], ports=[8000])
    assert caught.value.exit_code == 3
    assert caught.value.log_tail == ["the reason"]
    assert "the reason" in str(caught.value)


def test_a_container_that_is_not_ready_in_time(engine: pc.Engine) -> None:
    with pytest.raises(pc.NotReadyError, match=r"was not ready after 1 s") as caught:
        engine.run(
            "host:", ["sh", "-c", "echo waiting; sleep 100"], ports=[8000], ready_timeout_s=1
        )
    assert caught.value.log_tail == ["waiting"]
    assert isinstance(caught.value, TimeoutError)


def test_a_full_tmpfs_is_the_programs_business(engine: pc.Engine) -> None:
    script = "head -c 9000000 /dev/zero > /srv/x"
    with engine.run("host:", ["sh", "-c", script], scratch_size_bytes=1 << 20) as container:
        assert container.wait(60) == 1
        assert "No space left on device" in container.logs().stderr


@pytest.mark.needs("id range")
@pytest.mark.parametrize("user", ["70000", "0:70000"])
def test_a_user_beyond_the_ids_of_the_run(engine: pc.Engine, user: str) -> None:
    words = r"70000 is beyond the ids of this run's containers, 0 to \d+"
    with pytest.raises(pc.StartError, match=words):
        engine.run("host:", ["true"], user=user)
    with (
        engine.run("host:", ["sleep", "100"]) as container,
        pytest.raises(pc.StartError, match=words),
    ):
        container.exec(["true"], user=user)


@pytest.mark.parametrize("name", ["a\nb", "a b", "../x", "é" * 80, "x" * 300, "a\0b"])
def test_a_name_that_is_no_host_name(engine: pc.Engine, name: str) -> None:
    with engine.run("host:", ["cat", "/etc/hosts"], name=name, wait_ready=False) as container:
        assert container.wait(60) == 0
        lines = container.logs().stdout.splitlines()
    assert all(len(line.split()) >= 2 and line.isascii() and "/" not in line for line in lines)
    assert not any({"a", "b"} & set(line.split()) for line in lines)


def test_a_scratch_too_small_to_start_in(engine: pc.Engine) -> None:
    with pytest.raises(pc.StartError, match="No space left on device"):
        engine.run("host:", ["true"], scratch_size_bytes=4096)


def test_out_of_descriptors(store_home: Path) -> None:
    code = (
        "import resource, sys, pytest_containers as pc\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))\n"
        "e = pc.Engine(home=sys.argv[1]); found = []\n"
        "try:\n"
        "    for _ in range(100): found.append(e.run('host:', ['sleep', '100']))\n"
        "except pc.ContainersError as error: print(type(error).__name__, error)\n"
        "found.pop().remove(); found.pop().remove(); found.pop().remove()\n"
        "print(e.run('host:', ['true']).wait(60))\n"
    )
    command = [sys.executable, "-c", code, str(store_home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    first, *rest = done.stdout.splitlines()
    assert "Too many open files" in first, done
    assert "StartError" in first
    assert rest == ["0"], done


@pytest.mark.parametrize(
    ("code", "files", "words"),
    [
        (1, {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}, "AppArmor restricts"),
        (
            1,
            {"/proc/sys/kernel/unprivileged_userns_clone": "0"},
            "kernel.unprivileged_userns_clone=1",
        ),
        (28, {}, "user.max_user_namespaces"),
        (38, {}, "lacks it"),
        (1, {}, "forbids it"),
    ],
)
def test_what_a_refusal_means(
    monkeypatch: pytest.MonkeyPatch, code: int, files: dict[str, str], words: str
) -> None:
    monkeypatch.setattr(refusals, "read_setting", files.get)
    monkeypatch.setattr(refusals.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(refusals, "_IN_CONTAINER", ())
    assert words in refusals.explain("make the run's namespaces", code)


def test_an_old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "kernel_version", lambda: (5, 4))
    assert "containers need 5.12 or newer" in refusals.explain("make namespaces", 22)


@pytest.mark.needs("root")
@pytest.mark.parametrize("limit", ["user", "mnt"])
def test_namespaces_that_are_not_permitted(store_home: Path, limit: str) -> None:
    """For real: in a user namespace whose limit of namespaces is zero."""
    import subprocess
    import sys

    code = (
        "import sys, pytest_containers as pc\n"
        "engine = pc.Engine(home=sys.argv[1], identity='single')\n"
        "for _ in range(2):\n"
        "    try: engine.run('host:', ['true'])\n"
        "    except pc.UnsupportedError as error: print(error)\n"
    )
    script = f'echo 0 > /proc/sys/user/max_{limit}_namespaces; exec "$0" -c "$1" "$2"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script, sys.executable, code, str(store_home)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert "max_user_namespaces" in first, done
    assert first == second
