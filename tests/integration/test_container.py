"""The life of a container: start, streams, exit codes, signals, removal."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.layouts import Layout

import pytest_containers as pc
from pytest_containers.runtime.wire.operations.starts import Run, StartRequest


def shell(engine: pc.Engine, script: str, **options: object) -> pc.Container:
    return engine.run("host:", ["sh", "-c", script], wait_ready=False, **options)


def test_runs_a_program_with_either_runner(any_engine: pc.Engine) -> None:
    with shell(any_engine, "echo out; echo err >&2; exit 7") as container:
        assert container.wait(60) == 7
        assert container.logs().stdout == "out\n"
        assert container.logs().stderr == "err\n"


def test_arguments_are_each_containers_own(engine: pc.Engine) -> None:
    for words in (["a"], ["b", "c"], [], ["d e", "\udcff"]):
        with engine.run("host:", ["printf", "[%s]", *words], wait_ready=False) as container:
            assert container.wait(60) == 0
            wanted = "".join(f"[{word}]" for word in words or [""])
            assert container.logs().stdout_bytes == wanted.encode("utf-8", "surrogateescape")


def test_files_are_new_for_each_of_many(engine: pc.Engine) -> None:
    """Root file systems are made ahead; each is given once, whatever was asked for before."""
    for number in range(6):
        options = {"scratch_size_bytes": 1 << 20} if number % 2 else {}
        script = "test ! -e /srv/file; echo $?; touch /srv/file; cat /etc/hostname"
        with shell(engine, script, hostname=f"h{number}", **options) as container:
            assert container.wait(60) == 0
            assert container.logs().stdout == f"0\nh{number}\n"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 255", 255), ("kill -9 $$; sleep 9", None), ("nosuchprogram", 127),
     ("/etc/passwd", 126)],
)  # fmt: skip
def test_exit_codes_are_those_of_a_shell(engine: pc.Engine, script: str, code: int | None) -> None:
    with shell(engine, f"sh -c '{script}'; exit $?") as container:
        assert container.wait(60) == (137 if code is None else code)


@pytest.mark.parametrize("init", [False, True])
def test_a_signal_is_128_and_its_number(engine: pc.Engine, init: bool) -> None:
    with shell(engine, "sleep 100", init=init) as container:
        container.kill("KILL")
        assert container.wait(60) == 137
        assert container.status == "exited"


def test_stop_sends_term_first(engine: pc.Engine) -> None:
    with shell(engine, "trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.01; done") as c:
        pc.wait.log("up").until(c, pc.wait.Deadline(60))
        assert c.stop(timeout_s=10) == 4
        assert "bye" in c.logs().stdout


def test_stop_kills_who_does_not_listen(engine: pc.Engine) -> None:
    with shell(engine, "trap '' TERM; echo up; while :; do sleep 0.01; done") as container:
        pc.wait.log("up").until(container, pc.wait.Deadline(60))
        assert container.stop(timeout_s=0.05) == 137


def test_the_image_names_its_stop_signal(engine: pc.Engine) -> None:
    script = "trap 'exit 5' USR1; echo up; while :; do sleep 0.01; done"
    with shell(engine, script, stop_signal="SIGUSR1") as container:
        pc.wait.log("up").until(container, pc.wait.Deadline(60))
        assert container.stop() == 5


def test_each_container_has_its_own_data(engine: pc.Engine) -> None:
    containers = [shell(engine, "sleep 100") for _ in range(3)]
    try:
        for number, container in enumerate(containers):
            container.exec(["sh", "-c", f"echo {number} > /srv/data"], check=True)
        assert [c.read_text("/srv/data") for c in containers] == ["0\n", "1\n", "2\n"]
    finally:
        for container in containers:
            container.remove()


def test_hostname_and_environment(engine: pc.Engine) -> None:
    options = {"env": {"A": "1", "EMPTY": "", "Ä": "ö"}, "hostname": "somebody"}
    # Not by a shell: it drops names that it cannot have itself.
    script = "import os,socket; print(socket.gethostname(), open('/etc/hostname').read())"
    command = ["python3", "-c", script + "; [print(f'{k}={v}') for k, v in os.environ.items()]"]
    with engine.run("host:", command, wait_ready=False, **options) as container:
        container.wait(60)
        lines = container.logs().stdout.splitlines()
    assert lines[0] == "somebody somebody"
    assert {"A=1", "EMPTY=", "Ä=ö", "HOME=/root", "HOSTNAME=somebody"} <= set(lines)


def test_nothing_of_our_environment_comes_along(
    engine: pc.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_SECRET", "hidden")
    with (
        pc.Engine(home=engine.images.library.store.home) as fresh,
        shell(fresh, "env") as container,
    ):
        container.wait(60)
        assert "hidden" not in str(container.logs())


def test_working_directory_and_limits(engine: pc.Engine) -> None:
    options = {"workdir": "/var/lib", "ulimits": {"nofile": (100, 200), "core": 0}}
    with shell(engine, "pwd; ulimit -Sn; ulimit -Hn; ulimit -c", **options) as container:
        container.wait(60)
        assert container.logs().stdout.split() == ["/var/lib", "100", "200", "0"]


@pytest.mark.needs("id range")
def test_users_and_groups(engine: pc.Engine) -> None:
    with shell(engine, "id -u; id -g; id -G", user="daemon:games", groups=["tty", 1234]) as c:
        assert c.wait(60) == 0
        uid, gid, *groups = c.logs().stdout.split()
    assert (uid, gid) == ("1", "60")
    assert set(groups) == {"60", "5", "1234"}


@pytest.mark.needs("id range")
def test_a_number_is_an_id_and_never_a_name(engine: pc.Engine) -> None:
    with shell(engine, "sleep 100") as container:
        container.exec(["sh", "-c", "echo '1234:x:0:0::/:/bin/sh' >> /etc/passwd"], check=True)
        result = container.exec(["id", "-u"], user="1234", text=True)
    assert result.stdout == "1234\n"


def test_init_reaps_orphans(engine: pc.Engine) -> None:
    script = "sh -c '(sleep 0.01 &)'; sleep 0.2; ps -o stat= ax"
    with shell(engine, script, init=True) as container:
        container.wait(60)
        assert "Z" not in container.logs().stdout
        assert container.exit_code == 0


def test_a_terminal(engine: pc.Engine) -> None:
    with shell(engine, "tty; test -t 0 && test -t 1 && echo yes", tty=True) as container:
        assert container.wait(60) == 0
        assert container.logs().stdout == "/dev/pts/0\r\nyes\r\n"


def test_pause_and_unpause(engine: pc.Engine) -> None:
    with shell(engine, "while :; do echo tick; sleep 0.01; done") as container:
        pc.wait.log("tick").until(container, pc.wait.Deadline(60))
        container.pause()
        assert container.status == "paused"
        before = len(container.logs().stdout)
        time.sleep(0.1)
        assert len(container.logs().stdout) <= before + len("tick\n") * 2
        container.unpause()
        assert container.status == "running"
        pc.wait.log("tick", times=before // 5 + 5).until(container, pc.wait.Deadline(60))


def test_restart_keeps_files(any_engine: pc.Engine) -> None:
    with shell(
        any_engine, "cat /srv/kept 2>/dev/null; echo kept > /srv/kept; sleep 100"
    ) as container:
        pc.wait.file("/srv/kept").until(container, pc.wait.Deadline(60))
        container.restart(timeout_s=0.01)
        pc.wait.log("kept").until(container, pc.wait.Deadline(60))
        assert container.status == "running"


def test_restart_of_an_image_without_mount_points(
    engine: pc.Engine, layout: Layout, base: bytes
) -> None:
    image = layout.image([base])  # has no /proc
    with engine.run(image, ["/bin/sh", "-c", "echo ran"], wait_ready=False) as container:
        container.wait(60)
        container.restart()
        container.wait(60)
        assert container.logs().stdout == "ran\nran\n"


def test_output_goes_on_after_a_restart(engine: pc.Engine) -> None:
    with shell(engine, "echo run >> /srv/runs; wc -l < /srv/runs") as container:
        assert container.wait(60) == 0
        assert container.logs().stdout == "1\n"
        container.restart()
        assert container.wait(60) == 0
        assert container.logs().stdout == "1\n2\n"


@pytest.mark.parametrize("count", [1, 1 << 16, (1 << 16) + 1, 1 << 19])
def test_all_output_is_there_after_a_wait(engine: pc.Engine, count: int) -> None:
    with shell(engine, f"head -c {count} /dev/zero") as container:
        assert container.wait(60) == 0
        assert container.logs().stdout_bytes == bytes(count)


def test_output_of_who_outlives_the_program(engine: pc.Engine) -> None:
    script = "(sleep 0.2; echo child) & echo parent"
    with shell(engine, script, init=True) as container:
        assert container.wait(60) == 0
        assert container.logs().stdout == "parent\n"


def test_logs_keep_the_order_of_the_streams(engine: pc.Engine) -> None:
    script = "for i in 1 2 3; do echo o$i; sleep 0.02; echo e$i >&2; sleep 0.02; done"
    with shell(engine, script) as container:
        container.wait(60)
        records = container.logs().records
    assert [(stream, data) for _, stream, data in records] == [
        (1, b"o1\n"), (2, b"e1\n"), (1, b"o2\n"), (2, b"e2\n"), (1, b"o3\n"), (2, b"e3\n"),
    ]  # fmt: skip
    times = [when for when, _, _ in records]
    assert times == sorted(times)


def test_a_flood_of_output_keeps_the_newest(engine: pc.Engine) -> None:
    script = "yes 0123456789012345678901234567890 | head -c 20000000; echo last"
    with shell(engine, script, log_limit_bytes=1 << 20) as container:
        assert container.wait(60) == 0
        text = container.logs().stdout
    assert text.endswith("last\n")
    assert len(text) <= (1 << 20) + (1 << 16)


def test_follow_ends_with_the_container(engine: pc.Engine) -> None:
    with shell(engine, "for i in 1 2 3; do echo $i; sleep 0.01; done") as container:
        assert b"".join(data for _, _, data in container.follow(10)) == b"1\n2\n3\n"


def test_programs_may_open_their_streams_again(engine: pc.Engine) -> None:
    with shell(engine, "echo one > /dev/stdout; echo two > /dev/stderr") as container:
        assert container.wait(60) == 0
        assert container.logs().stdout == "one\n"
        assert container.logs().stderr == "two\n"


@pytest.mark.needs("id range")
def test_users_may_open_their_streams_again(engine: pc.Engine) -> None:
    with shell(engine, "echo two > /dev/stderr", user="nobody") as container:
        assert container.wait(60) == 0, container.logs()


def test_wait_gives_up_in_time(engine: pc.Engine) -> None:
    with shell(engine, "sleep 100") as container:
        with pytest.raises(pc.WaitTimeoutError, match="did not end within"):
            container.wait(0.05)
        assert container.status == "running"


def test_removed_containers_say_so(engine: pc.Engine) -> None:
    container = shell(engine, "sleep 100")
    container.remove()
    container.remove()
    assert container.status == "removed"
    with pytest.raises(pc.NotRunningError, match="was removed"):
        container.exec(["true"])


def test_an_oci_config_with_something_unknown_is_refused(engine: pc.Engine) -> None:
    client = engine._core.client
    image = engine.image("host:")
    key = engine._core.make_ready(image)
    config = (
        b'{"ociVersion": "1.2.0", "process": {"args": ["true"], "cwd": "/", "x": 5}, "root": {}}'
    )
    request = StartRequest(
        image=key, name="x", hostname="x", names=["x"], network=None, user="", groups=[], args=[],
        init=False, log_limit_bytes=1, scratch="tmpfs", scratch_size_bytes=None, ports=[],
        host_ports=[],
    )  # fmt: skip
    with pytest.raises(pc.SpecError, match="process.x is not supported: it is no property"):
        client.call(Run(request=request, config=config))


def test_threads_share_an_engine(engine: pc.Engine) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(5):
                with shell(engine, f"echo {number}; sleep 0.01; exit {number}") as container:
                    assert container.wait(60) == number
                    assert container.logs().stdout == f"{number}\n"
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_many_threads_begin_a_run() -> None:
    """Its first answer is one, for all who wait for it."""
    with pc.Engine() as engine, ThreadPoolExecutor(8) as pool:
        together = threading.Barrier(8)

        def begin(_: int) -> object:
            together.wait()
            return engine.facts["identity"]

        assert len(set(pool.map(begin, range(8), timeout=60))) == 1


def test_whatever_meets_the_end_of_a_container_is_told_so(engine: pc.Engine) -> None:
    """The kernel has other words for it at each instant: ESRCH, EINVAL, and ENOMEM from clone(2)."""
    for step in range(300):
        with engine.run("host:", ["sh", "-c", "exit 0"]) as container:
            time.sleep(step % 30 * 0.00005)
            with contextlib.suppress(pc.NotRunningError):
                container.pause()
                container.unpause()
            with contextlib.suppress(pc.NotRunningError, pc.ExecError):
                container.exec(["true"])
