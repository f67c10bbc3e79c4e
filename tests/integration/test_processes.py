"""Programs in containers: where they begin, who they are, and how they end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_containers as pc
from pytest_containers.engines.native import execution
from pytest_containers.runtime import identity

IDENTITIES = ["root", "range", "single"]


def _has(mode: str) -> bool:
    best = IDENTITIES.index(identity.choose().mode)
    return best <= IDENTITIES.index(mode)


@pytest.fixture(scope="module", params=[mode for mode in IDENTITIES if _has(mode)])
def own(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[pc.Engine]:
    """A run in each identity that this user can have."""
    with pc.Engine(home=tmp_path_factory.mktemp("store"), identity=request.param) as engine:
        yield engine


def shell(engine: pc.Engine, script: str, **options: object) -> str:
    with engine.run("host:", ["sh", "-c", script], wait_ready=False, **options) as container:
        container.wait(60)
        return str(container.logs())


# ------------------------------------------------------------------ working directory


@pytest.mark.parametrize("options", [{}, {"init": True}, {"read_only": True}, {"tty": True}])
def test_a_missing_workdir_is_made(own: pc.Engine, options: dict[str, object]) -> None:
    script = "pwd; stat -c '%a %u:%g' /srv/a /srv/a/b"
    output = shell(own, script, workdir="/srv/a/./x/../b", **options)
    assert output.split() == ["/srv/a/b", "755", "0:0", "755", "0:0"]


def test_exec_makes_a_missing_workdir(own: pc.Engine) -> None:
    with own.run("host:", ["sleep", "100"]) as container:
        result = container.exec(["pwd"], workdir="/srv/new/er", text=True)
        assert result.stdout == "/srv/new/er\n"
        result = container.exec(["stat", "-c", "%a %u:%g", "/srv/new", "/srv/new/er"], text=True)
        assert result.stdout == "755 0:0\n755 0:0\n"


def test_a_workdir_is_made_in_the_mount_that_it_is_in(own: pc.Engine) -> None:
    mounts = [pc.Tmpfs("/srv/data")]
    assert shell(own, "pwd; ls /srv/data", workdir="/srv/data/sub", mounts=mounts) == (
        "/srv/data/sub\nsub\n"
    )


@pytest.mark.needs("id range")
def test_a_user_may_work_where_only_root_may_enter(engine: pc.Engine) -> None:
    with engine.run("host:", ["sh", "-c", "mkdir -m 700 /srv/own; sleep 100"]) as container:
        container.exec(["sh", "-c", "until test -d /srv/own; do :; done"], timeout_s=10)
        result = container.exec(["sh", "-c", "/bin/pwd; id -u; ls"], user="daemon",
                                workdir="/srv/own", text=True)  # fmt: skip
        assert result.stdout == "/srv/own\n1\n"
        assert "Permission denied" in result.stderr


def test_no_workdir_is_made_through_a_descriptor(engine: pc.Engine) -> None:
    # As CVE-2024-21626, by a link of the image. The supervisor has the container's root open.
    with engine.run("host:", ["sleep", "100"]) as container:
        for number in range(3, 60):
            container.exec(["ln", "-sfn", f"/proc/self/fd/{number}", "/srv/link"], check=True)
            with pytest.raises(pc.StartError, match="working directory"):
                container.exec(["true"], workdir="/srv/link/made")
        assert container.exec(["test", "-e", "/made"]).returncode == 1


# ------------------------------------------------------------------------------ exec


@pytest.fixture
def box(own: pc.Engine) -> Iterator[pc.Container]:
    with own.run("host:", ["sleep", "1000"]) as container:
        yield container


def exec_in_time(box: pc.Container, script: str, **options: object) -> pc.ExecResult:
    """Run a script whose background processes outlive the test."""
    return box.exec(["sh", "-c", script], timeout_s=60, text=True, **options)


@pytest.mark.parametrize("tty", [False, True])
def test_exec_returns_when_its_program_has_ended(box: pc.Container, tty: bool) -> None:
    script = "trap '' HUP; echo out; sleep 1000 & echo err >&2; exit 3"
    result = exec_in_time(box, script, tty=tty)
    assert result.returncode == 3
    assert (result.stdout.split(), result.stderr) == (
        (["out", "err"], "") if tty else (["out"], "err\n")
    )
    assert box.status == "running"


def test_exec_returns_while_others_flood_its_output(box: pc.Container) -> None:
    result = exec_in_time(box, "echo first; yes & exit 5")
    assert result.returncode == 5
    assert result.stdout.startswith("first\n")


def test_all_that_a_program_wrote_is_there(box: pc.Container) -> None:
    for _ in range(20):
        result = exec_in_time(box, "sleep 1000 & dd if=/dev/zero bs=60000 count=1 2>/dev/null")
        assert len(result.stdout) == 60000


def test_output_that_comes_a_little_later_is_there(
    box: pc.Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "_LATE_S", 60)
    assert exec_in_time(box, "(sleep 0.3; echo late) & echo started").stdout == "started\nlate\n"


def test_input_goes_to_a_program_that_left_others_behind(box: pc.Container) -> None:
    data = "x" * 1_000_000
    assert exec_in_time(box, "sleep 1000 & wc -c", input=data).stdout == "1000000\n"


def test_a_timeout_tells_code_and_output(box: pc.Container) -> None:
    script = "echo out; echo err >&2; sleep 1000"
    with pytest.raises(pc.WaitTimeoutError, match=r"did not end within 1\.5 s and was killed") as e:
        box.exec(["sh", "-c", script], timeout_s=1.5, text=True)
    assert (e.value.exit_code, e.value.stdout, e.value.stderr) == (137, "out\n", "err\n")
    assert e.value.timeout_s == 1.5


def test_a_timeout_is_of_a_program_that_closed_its_streams_too(box: pc.Container) -> None:
    with pytest.raises(pc.WaitTimeoutError) as caught:
        box.exec(["sh", "-c", "echo out; exec >&- 2>&-; sleep 1000"], timeout_s=1.5)
    assert (caught.value.exit_code, caught.value.stdout) == (137, b"out\n")


@pytest.mark.needs("postgresql", "id range")
def test_a_server_that_goes_to_the_background(engine: pc.Engine) -> None:
    script = (
        "set -- /usr/lib/postgresql/*/bin; export PATH=$1:$PATH; cd /tmp; "
        "initdb -N -D data >/dev/null && pg_ctl start -D data -o '-k /tmp -h \"\"'"
    )
    with engine.run("host:", ["sleep", "1000"]) as container:
        result = exec_in_time(container, script, user="daemon")
        assert result.returncode == 0, result.stderr
        assert "server started" in result.stdout


# ---------------------------------------------------------------------- users and limits


@pytest.mark.needs("id range")
@pytest.mark.parametrize(
    ("user", "ids"),
    [("", "0:0:0"), (":5", "0:5:5"), ("daemon:games", "1:60:60"), ("1234", "1234:0:0"),
     ("daemon", "1:1:1"), ("1:1234", "1:1234:1234")],
)  # fmt: skip
def test_the_groups_have_the_primary_one(engine: pc.Engine, user: str, ids: str) -> None:
    script = "echo $(id -u):$(id -g):$(sed -n 's/^Groups:\\s*//p' /proc/self/status)"
    assert shell(engine, script, user=user).strip() == ids
    with engine.run("host:", ["sleep", "100"]) as container:
        assert container.exec(["sh", "-c", script], user=user, text=True).stdout.strip() == ids


@pytest.mark.needs("id range")
def test_exec_as_another_user_has_the_groups_of_the_spec(engine: pc.Engine) -> None:
    with engine.run("host:", ["sleep", "100"], groups=["tty", 1234]) as container:
        for user in (None, "daemon"):
            groups = container.exec(["id", "-G"], user=user, text=True).stdout.split()
            assert {"5", "1234"} < set(groups)


@pytest.mark.parametrize("user", ["٣", "0:٣"])
def test_digits_of_other_scripts_are_no_number(engine: pc.Engine, user: str) -> None:
    with pytest.raises(pc.StartError, match="'٣' is not in the container's /etc/"):
        engine.run("host:", ["true"], user=user)


def test_no_limit_is_unlimited(engine: pc.Engine) -> None:
    limits = {"core": -1, "nofile": (64, 100)}
    output = shell(engine, "ulimit -c; ulimit -Hc; ulimit -n; ulimit -Hn", ulimits=limits)
    assert output.split() == ["unlimited", "unlimited", "64", "100"]
    # Refused to all, since no table of descriptors is that large (fs.nr_open).
    with pytest.raises(pc.StartError, match="limit nofile to 5 and unlimited: "):
        engine.run("host:", ["true"], ulimits={"nofile": (5, -1)})


# ------------------------------------------------------------------- the files of the root


@pytest.mark.parametrize("init", [False, True])
def test_a_terminal_is_the_console(own: pc.Engine, init: bool) -> None:
    script = "echo typed > /dev/console; stat -c '%t:%T %a' /dev/console $(tty); tty"
    for _ in range(2):
        lines = shell(own, script, tty=True, init=init).split("\r\n")
        assert lines == ["typed", "88:0 620", "88:0 620", "/dev/pts/0", ""]


def test_without_a_terminal_there_is_no_console(own: pc.Engine) -> None:
    assert shell(own, "test -e /dev/console; echo $?") == "1\n"


@pytest.mark.parametrize("scratch", ["tmpfs", "disk"])
def test_a_read_only_root_has_read_only_files(own: pc.Engine, scratch: str) -> None:
    script = """
        for file in /etc/hosts /etc/resolv.conf /etc/hostname /new; do
            (echo more >> $file) 2>&1 | grep -q 'Read-only file system' && echo $file
        done; grep -c localhost /etc/hosts"""
    output = shell(own, script, read_only=True, scratch=scratch)
    assert output.split() == ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/new", "2"]


def test_names_are_written_to_a_read_only_root(engine: pc.Engine) -> None:
    with (
        engine.run("host:", ["sleep", "100"], read_only=True) as first,
        engine.run("host:", ["sleep", "100"], name="second"),
    ):
        script = "until grep second /etc/hosts; do sleep 0.01; done"
        assert first.exec(["sh", "-c", script], timeout_s=10).returncode == 0


def test_own_lines_stand_in_hosts_once(own: pc.Engine) -> None:
    script = "until grep -q last /etc/hosts; do sleep 0.01; done; cat /etc/hosts"
    with (
        own.run("host:", ["sleep", "100"], name="first") as first,
        own.run("host:", ["sleep", "100"], name="middle", aliases=["first"]) as middle,
        own.run("host:", ["sleep", "100"], name="last") as last,
    ):
        boxes = (first, middle, last)
        for box in boxes:
            lines = box.exec(["sh", "-c", script], timeout_s=10, text=True).stdout.splitlines()
            addresses = [line.split()[0] for line in lines]
            assert len(addresses) == len(set(addresses))
            assert {each.ip for each in boxes} < set(addresses)
            # Where names clash, one's own come first.
            own_line = next(line for line in lines if box.name in line.split())
            assert own_line.split()[0] == box.ip


def test_a_host_name_with_a_domain(own: pc.Engine) -> None:
    script = "hostname; cat /etc/hostname; getent hosts box; getent hosts box.example.com"
    with own.run("host:", ["sleep", "100"], hostname="box.example.com") as box:
        line = next(line for line in box.read_text("/etc/hosts").splitlines() if box.ip in line)
        assert line.split()[:3] == [box.ip, "box.example.com", "box"]
        output = box.exec(["sh", "-c", script], text=True).stdout.splitlines()
    assert output[:2] == ["box.example.com"] * 2
    assert len(output) == 4
    assert all("box.example.com" in entry for entry in output)


# ------------------------------------------------------------------------------ signals

FOREVER_S = 10_000.0
"""A time limit that a test would not outlive."""

PYTHON = "import signal, time; {}; print('up', flush=True); time.sleep(1000)"


@pytest.mark.parametrize("signal", [None, "TERM", "USR1", "WINCH", "RTMIN+3"])
def test_stop_kills_at_once_who_cannot_hear(own: pc.Engine, signal: str | None) -> None:
    with own.run("host:", ["sleep", "1000"], stop_signal=signal) as container:
        assert container.stop(FOREVER_S) == 137


def test_stop_of_a_shell_that_waits_for_its_child(own: pc.Engine) -> None:
    with own.run("host:", ["sh", "-c", "sleep 1000; true"]) as container:
        script = "until pgrep -x sleep; do sleep 0.01; done"
        container.exec(["sh", "-c", script], check=True, timeout_s=30)
        assert container.stop(FOREVER_S) == 137


def test_stop_of_one_that_blocks_all_signals_for_a_moment(own: pc.Engine) -> None:
    """As a shell that forks does, and waits for its turn on a busy machine."""
    busy = (
        "signal.pthread_sigmask(0, [15]); print('up', flush=True); until = time.monotonic() + 0.3\n"
        "while time.monotonic() < until: pass\n"
        "signal.pthread_sigmask(1, [15])"
    )
    with own.run("host:", ["python3", "-c", PYTHON.format(busy)]) as container:
        pc.wait.log("up").until(container, pc.wait.Deadline(60))
        assert container.stop(FOREVER_S) == 137


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("signal.signal(15, lambda *_: exit(3))", 3),
        (
            "signal.pthread_sigmask(0, [15]); print('up', flush=True); exit(signal.sigwait([15]))",
            15,
        ),
    ],
)
def test_stop_waits_for_who_hears(own: pc.Engine, action: str, code: int) -> None:
    with own.run("host:", ["python3", "-c", PYTHON.format(action)]) as container:
        pc.wait.log("up").until(container, pc.wait.Deadline(60))
        assert container.stop(FOREVER_S) == code


def test_stop_waits_for_who_ignores_it(own: pc.Engine) -> None:
    script = "trap '' TERM; echo up; until test -e /go; do sleep 0.01; done; exit 7"
    with own.run("host:", ["sh", "-c", script]) as container:
        pc.wait.log("up").until(container, pc.wait.Deadline(60))
        thread = threading.Timer(0.3, lambda: container.write_text("/go", ""))
        thread.start()
        assert container.stop(FOREVER_S) == 7
        thread.join()


def test_with_a_reaper_the_signal_ends_it(own: pc.Engine) -> None:
    with own.run("host:", ["sleep", "1000"], init=True) as container:
        assert container.stop(FOREVER_S) == 143


def test_stop_of_a_paused_one(own: pc.Engine) -> None:
    with own.run("host:", ["sleep", "1000"]) as container:
        container.pause()
        assert container.stop(FOREVER_S) == 137


ODD_PARENT = """
import os, signal, sys
from pathlib import Path
import pytest_containers as pc

IGNORED = (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, 40)
for number in IGNORED:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

def state(status):
    sets = dict(line.split(":") for line in status.splitlines())
    ignored = int(sets["SigIgn"], 16)
    return int(sets["SigBlk"], 16), [int(n) for n in IGNORED if ignored >> n - 1 & 1]

SHOW = ["cat", "/proc/self/status"]
with pc.Engine(home=sys.argv[1], identity=sys.argv[2], runner=sys.argv[3]) as engine:
    for init in (False, True):
        with engine.run("host:", SHOW, init=init) as box:
            assert box.wait(60) == 0
            assert state(str(box.logs())) == (0, [])
    with engine.run("host:", ["sleep", "1000"], init=True) as box:
        assert state(box.exec(SHOW, text=True).stdout) == (0, [])
        assert box.exec(["sh", "-c", "kill -TERM $$"]).returncode == 143
        assert box.exec(["sh", "-c", "(exit 9) & wait $!"]).returncode == 9
        box.copy_in("/etc/os-release", "/copied")
        assert box.stop(10_000) == 143
    names = set()
    for entry in Path("/proc").glob("[0-9]*/status"):
        try:
            status = entry.read_text()
            own = os.getpid() in parents(status)
        except (FileNotFoundError, ProcessLookupError):  # it, or one above it, has ended
            continue
        name = status.split()[1]
        if name.startswith("pc-") and own:
            names.add(name)
            # What removes cgroups at the end outlives a signal to all processes.
            outlived = [signal.SIGHUP, signal.SIGTERM] if name == "pc-cgroups" else []
            assert state(status) == (0, outlived), status
    assert names - {"pc-cgroups"} == {"pc-launcher", "pc-supervisor", "pc-network"}, names
print("done")
"""

PARENTS = """
def parents(status):
    while True:
        parent = int(next(l for l in status.splitlines() if l.startswith("PPid:")).split()[1])
        if not parent:
            return
        yield parent
        with open(f"/proc/{parent}/status") as file:
            status = file.read()
"""


@pytest.mark.parametrize("mode", [mode for mode in IDENTITIES if _has(mode)])
@pytest.mark.parametrize("runner", ["stub", "python"])
def test_signals_of_the_test_process_are_its_own(mode: str, runner: str, store_home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PARENTS + ODD_PARENT, str(store_home), mode, runner],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


# ------------------------------------------------------------------------------ `run`


@pytest.mark.parametrize("options", [[], ["--init"], ["-t"], ["-t", "--init"]])
def test_run_ends_with_its_program(options: list[str], store_home: Path) -> None:
    main = "import sys; from pytest_containers.cli import main; sys.exit(main())"
    script = "trap '' HUP; sleep 1000 & echo started; exit 3"
    done = subprocess.run(
        [sys.executable, "-c", main, "run", *options, "host:", "sh", "-c", script],
        capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTEST_CONTAINERS_HOME": str(store_home)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (3, "started\n", "")
