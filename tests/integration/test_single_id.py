"""Users of containers in a run with a single id: whoever a program is to be, gets that one id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_containers as pc


@pytest.fixture(scope="module")
def single(store_home: Path) -> Iterator[pc.Engine]:
    with pc.Engine(home=store_home, identity="single") as engine:
        yield engine


def output(engine: pc.Engine, script: str, **options: object) -> list[str]:
    with engine.run("host:", ["sh", "-c", script], **options) as container:
        code = container.wait(60)
        assert code == 0, str(container.logs())
        return container.logs().stdout.split()


@pytest.mark.parametrize(
    ("user", "ids"),
    [("nobody", "65534 65534"), ("1000:50", "1000 50"), ("205001", "205001 0"), ("0:7", "0 7")],
)
def test_a_program_is_the_user_and_has_all_files(single: pc.Engine, user: str, ids: str) -> None:
    script = "id -u; id -g; id -G; touch /tmp/x; stat -c %u:%g /tmp/x /etc / /proc/self/"
    uid, gid = ids.split()
    assert output(single, script, user=user) == [uid, gid, gid, *[f"{uid}:{gid}"] * 4]


def test_others_see_its_files_as_their_own(single: pc.Engine) -> None:
    with single.run("host:", ["sleep", "1000"], user="nobody") as container:
        container.exec(["touch", "/tmp/x"], check=True)
        for user, owner in (("0", "0:0"), ("7:8", "7:8"), ("nobody", "65534:65534")):
            shown = container.exec(["stat", "-c", "%u:%g", "/tmp/x"], user=user, text=True)
            assert shown.stdout == f"{owner}\n"
        assert container.exec(["kill", "-0", "1"], user="7").returncode == 0


def test_it_has_no_privileges(single: pc.Engine) -> None:
    script = "grep -E '^(CapInh|CapPrm|CapEff|CapAmb)' /proc/self/status | cut -f2"
    assert set(output(single, script, user="nobody")) == {"0000000000000000"}
    refused = "for command in 'mount -t tmpfs none /tmp' 'chown 1 /tmp' 'unshare -U true'; do "
    refused += "$command 2>/dev/null && exit 1; done; echo none"
    assert output(single, refused, user="nobody") == ["none"]


def test_set_user_id_programs_have_no_effect(single: pc.Engine) -> None:
    script = "cp /usr/bin/id /tmp/id; chmod 4755 /tmp/id"
    with single.run("host:", ["sleep", "1000"]) as container:
        container.exec(["sh", "-c", script], check=True)
        shown = container.exec(["/tmp/id", "-u"], user="7", text=True)
        assert shown.stdout == "7\n"


@pytest.mark.parametrize("options", [{}, {"init": True}, {"tty": True}, {"read_only": True}])
def test_streams_and_the_working_directory(single: pc.Engine, options: dict[str, bool]) -> None:
    script = "pwd >/dev/stdout; id -u >/dev/stderr; exec sleep 1000"
    ready = pc.wait.all_of(pc.wait.log("/tmp"), pc.wait.log("65534"))
    command = ["sh", "-c", script]
    with single.run(
        "host:", command, user="nobody", workdir="/tmp", ready=ready, **options
    ) as container:
        assert container.exec(["pwd"], user="nobody", text=True).stdout == "/tmp\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("nosuchprogram", "command 'nosuchprogram' was not found in the container's PATH"),
        ("/etc/passwd", "command '/etc/passwd' cannot be executed: Permission denied"),
        ("/nosuch", "command '/nosuch' is not there"),
    ],
)
def test_a_program_that_is_not_there_is_told_as_ever(
    single: pc.Engine, command: str, message: str
) -> None:
    with pytest.raises(pc.StartError) as started:
        single.run("host:", [command], user="nobody")
    with single.run("host:", ["sleep", "1000"]) as container:
        with pytest.raises(pc.StartError) as executed:
            container.exec([command], user="nobody")
    assert message in str(started.value) and message in str(executed.value)


def test_a_restart_and_a_snapshot(single: pc.Engine) -> None:
    script = "echo $(id -u) >>/data; cat /data"
    with single.run("host:", ["sh", "-c", script], user="7") as container:
        assert container.wait(60) == 0
        container.restart()
        assert container.wait(60) == 0
        image = container.snapshot()
    with single.run(image, ["cat", "/data"], user="8") as container:
        assert container.wait(60) == 0
        assert container.logs().stdout == "7\n7\n"


def test_user_namespaces_that_are_not_permitted_are_named(single: pc.Engine) -> None:
    """As where the limit of user namespaces is reached: the second program's own error."""
    with single.run("host:", ["sleep", "1000"], privileged=True) as container:
        limit = "/proc/sys/user/max_user_namespaces"
        written = container.exec(["sh", "-c", f"echo 0 >{limit}"], user="0")
        if written.returncode:
            pytest.fail(written.stderr.decode())
        try:
            with pytest.raises(pc.StartError, match="make a user namespace for user 7:7.*No space"):
                container.exec(["true"], user="7")
        finally:
            container.exec(["sh", "-c", f"echo 1000 >{limit}"], user="0", check=True)


def test_the_second_program_is_filtered_before_others_may_look_into_it(store_home: Path) -> None:
    with pc.Engine(home=store_home, identity="single", debug=str(store_home / "debug")) as engine:
        engine.run("host:", ["true"], user="7").wait(60)
    (line,) = [
        line for line in (store_home / "debug").read_text().splitlines() if "step: plan: " in line
    ]
    steps = line.partition("step: plan: ")[2].split("; ")
    assert steps.index("install the filter of system calls") < steps.index(
        "execute the second program"
    )
