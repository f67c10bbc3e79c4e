"""The same small scripts in containers here and in Docker: what they see, and how they end.

`CASES` are what is compared, and `DIFFERENCES` those that are known to differ, for the reasons that
stand in ``docs/reference/differences.md``. A difference that is gone fails, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.as_docker import Case, Docker, Result, run_here
from helpers.layouts import Layout, busybox, layer, member

import pytest_containers as pc

pytestmark = pytest.mark.needs("docker", "root")

PROGRAMS = (
    "cat", "chmod", "cut", "dd", "env", "find", "getent", "grep", "head", "hostname", "id", "kill",
    "ln", "ls", "mkdir", "mknod", "mount", "nohup", "ps", "readlink", "rm", "sed", "setsid",
    "sleep", "sort", "stat", "stty", "tail", "touch", "tr", "tty", "uname", "wc",
)  # fmt: skip
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:7:8::/home/app:/bin/sh\n"
GROUPS = b"root:x:0:\ntty:x:5:\napp:x:8:\nstaff:x:9:app\n"
IMAGES = {
    "base:1": {},
    "set:1": {
        "WorkingDir": "/from/image", "User": "app", "Env": [PATH, "A=image", "B=image"],
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["id -u; pwd; env | sort; stat -c '%a %u' /from"],
        "StopSignal": "SIGUSR1",
    },
}  # fmt: skip
"""Two images of one root: their configs."""

STATUS = "grep -E '^(Sig(Blk|Ign)|Cap|NoNewPrivs|Groups)' /proc/self/status"
WAIT = "while :; do sleep 0.01; done"
UP = f"echo up; {WAIT}"


FACTS = "stat -c '%n %F %a %u:%g'"
TARGETS = (
    "for path in {}; do grep \" $path \" /proc/self/mounts | cut -d' ' -f2-4; done "
    "| sed 's/,[ug]id=[0-9]*//g'"
)

CASES = {
    # ------------------------------------------------------------------ file systems
    "the kernel's file systems": Case(TARGETS.format("/proc /dev /dev/pts /dev/mqueue /sys")),
    "ids in the table of mounts": Case("grep -c uid= /proc/self/mounts"),
    "shared memory": Case(TARGETS.format("/dev/shm"), {"shm_size": 1 << 20}),
    "devices": Case(
        "cd /dev; ls; stat -c '%n %F %a %t:%T' null zero full random urandom tty; "
        f"{FACTS} ptmx shm mqueue pts"
    ),
    "owners of devices": Case("cd /dev; stat -c '%u:%g' null zero full random urandom tty"),
    "devices work": Case(
        "head -c 3 /dev/zero | wc -c; echo x > /dev/null; echo x > /dev/full; head -c 3 "
        "/dev/urandom | wc -c; echo x > /dev/tty"
    ),
    "links of /dev": Case("cd /dev; readlink fd stdin stdout stderr ptmx"),
    "masked paths": Case(
        "wc -c < /proc/kcore; wc -c < /proc/keys; wc -c < /proc/timer_list; ls /sys/firmware "
        "/proc/acpi /proc/scsi"
    ),
    "protected paths": Case(
        "echo 1 > /proc/sys/kernel/hostname; echo b > /proc/sysrq-trigger; touch /proc/bus/x; "
        "touch /sys/x"
    ),
    "the root": Case(f"echo x > /x; cat /x; {FACTS} / /x /tmp /root; rm -r /home; ls /"),
    "a read-only root": Case(
        "echo x > /x; touch /tmp/x; echo x > /etc/hosts; echo x > /etc/resolv.conf; "
        "echo x > /etc/hostname; echo x > /dev/shm/x; cat /dev/shm/x",
        {"read_only": True},
    ),
    "a missing working directory on a read-only root": Case(
        "pwd; touch x", {"read_only": True, "workdir": "/made/for/it"}
    ),
    "files of /etc": Case(f"{FACTS} /etc/hosts /etc/hostname /etc/resolv.conf; cat /etc/hostname"),
    "no mounts of one's own": Case("mount -t tmpfs none /mnt; echo $?"),
    "devices of one's own": Case("mknod /tmp/null c 1 3 && echo made"),
    "a fifo of one's own": Case("mknod /tmp/fifo p && stat -c %F /tmp/fifo"),
    # ------------------------------------------------------------------------ mounts
    "tmpfs": Case(
        f"{TARGETS.format('/srv/t')}; {FACTS} /srv /srv/t; echo x > /srv/t/x; cat /srv/t/x",
        {"mounts": [pc.Tmpfs("/srv/t", size_bytes=1 << 20, mode=0o750)]},
    ),
    "tmpfs is full": Case(
        "dd if=/dev/zero of=/srv/t/x bs=4k count=20 2>/dev/null; echo $?; stat -c %s /srv/t/x",
        {"mounts": [pc.Tmpfs("/srv/t", size_bytes=1 << 16)]},
    ),
    "a directory": Case(
        "cat /made/for/it/file; echo new > /made/for/it/new && cat /made/for/it/new; "
        "rm /made/for/it/new; stat -c '%a %u:%g' /made /made/for",
        {"mounts": [pc.Bind("SHARED/directory", "/made/for/it")]},
    ),
    "a directory read-only": Case(
        "cat /srv/d/file; echo x > /srv/d/new; echo x > /srv/d/file; rm /srv/d/file",
        {"mounts": [pc.Bind("SHARED/directory", "/srv/d", read_only=True)]},
    ),
    "a file": Case(
        "cat /srv/new/file; stat -c %F /srv/new/file; rm /srv/new/file",
        {"mounts": [pc.Bind("SHARED/file", "/srv/new/file")]},
    ),
    "a file read-only": Case(
        "cat /file; echo x > /file", {"mounts": [pc.Bind("SHARED/file", "/file", read_only=True)]}
    ),
    "mounts in mounts": Case(
        "cat /srv/file /srv/sub/file; ls /srv /srv/sub",
        {"mounts": [pc.Bind("SHARED/other", "/srv/sub"), pc.Bind("SHARED/directory", "/srv")]},
    ),
    "a mount in a tmpfs": Case(
        "ls /srv; cat /srv/sub/file",
        {"mounts": [pc.Bind("SHARED/other", "/srv/sub"), pc.Tmpfs("/srv")]},
    ),
    "one's own hosts file": Case(
        "cat /etc/hosts", {"mounts": [pc.Bind("SHARED/file", "/etc/hosts", read_only=True)]}
    ),
    "a mount behind a link": Case(
        "cat /linked/m/file /private/m/file",
        {"mounts": [pc.Bind("SHARED/directory", "/linked/m")]},
    ),
    "a directory on a file": Case("true", {"mounts": [pc.Bind("SHARED/directory", "/file")]}),
    "a file on a directory": Case("true", {"mounts": [pc.Bind("SHARED/file", "/srv")]}),
    "a mount on the root": Case("true", {"mounts": [pc.Bind("SHARED/directory", "/")]}),
    "a working directory in a mount": Case(
        "pwd; ls /srv", {"mounts": [pc.Tmpfs("/srv")], "workdir": "/srv/a/b"}
    ),
    # ------------------------------------------------------------------------- users
    **{
        f"user {user!r}": Case(f"id; {STATUS}; echo $HOME", {"user": user})
        for user in ("root", "app", "1234", "7:9", "app:staff", ":5")
    },
    **{
        f"no user {user!r}": Case("true", {"user": user})
        for user in ("nobody", "app:nosuch", "٣", "app:٣", "-1", "99999999999", "app:staff:x", "+7")
    },
    "more groups": Case("id", {"user": "app", "groups": ["tty", 1234]}),
    "no such group": Case("true", {"groups": ["nosuch"]}),
    "capabilities": Case(STATUS, {"cap_add": ["NET_ADMIN"], "cap_drop": ["KILL", "CHOWN"]}),
    "no capabilities": Case(f"{STATUS}; cat /private/x", {"cap_drop": ["ALL"]}),
    "only one capability": Case(STATUS, {"cap_drop": ["ALL"], "cap_add": ["CHOWN"]}),
    "setuid": Case("/bin/setuid-id -u", {"user": "app"}),
    "no new privileges": Case(
        f"/bin/setuid-id -u; {STATUS}", {"user": "app", "no_new_privileges": True}
    ),
    "permissions": Case("cat /private/x; ls /private; echo x > /own/x; ls /own", {"user": "app"}),
    # ------------------------------------------------------------- working directory
    "a missing working directory": Case(
        f"pwd; {FACTS} /made /made/for /made/for/it; touch x", {"workdir": "/made/for/it"}
    ),
    "a missing working directory of a user": Case(
        f"pwd; {FACTS} /made /made/it; touch x", {"workdir": "/made/it", "user": "app"}
    ),
    "a working directory of root": Case(
        "pwd; ls; cat x; id -u", {"workdir": "/private", "user": "app"}
    ),
    "a working directory of another user": Case(
        "pwd; ls", {"workdir": "/own", "cap_drop": ["ALL"]}
    ),
    "a working directory that is a file": Case("pwd", {"workdir": "/file"}),
    "a working directory below a file": Case("pwd", {"workdir": "/file/x"}),
    "a working directory by a link": Case("pwd; readlink /proc/self/cwd", {"workdir": "/linked"}),
    "a working directory with dots": Case("pwd", {"workdir": "/made/./up/../it/"}),
    # --------------------------------------------------------------------- the image
    "the image's settings": Case(None, image="set:1"),
    "the image's settings replaced": Case(
        ["id -u; pwd; echo $A $B $C"],
        {"user": "root", "workdir": "/tmp", "env": {"B": "own", "C": "own"}},
        image="set:1",
    ),
    "an entrypoint": Case(["a b", "c"], {"entrypoint": ["/bin/echo"]}, image="set:1"),
    "the image's stop signal": Case(
        f"trap 'echo usr1; exit 3' USR1; {UP}", {"entrypoint": []}, end="stop", image="set:1"
    ),
    # ------------------------------------------------------ command and environment
    "the environment": Case("env | sort", {"env": {"A": "b c=d", "EMPTY": "", "HOME": "/x"}}),
    "the environment of a user": Case("env | sort", {"user": "app"}),
    "the environment of a stranger": Case("env | sort", {"user": "1234"}),
    "a path of one's own": Case(["greet"], {"env": {"PATH": "/scripts"}}),
    "arguments": Case(["/bin/sh", "-c", 'for a; do echo "[$a]"; done', "sh", "", "a b", "ä", "*"]),
    "no such program": Case(["nosuch"]),
    "no such path": Case(["/nosuch"]),
    "an empty program": Case([""]),
    "a program that is a directory": Case(["/etc"]),
    "a program that is not executable": Case(["/file"]),
    "a program without a format": Case(["/scripts/plain"]),
    "a script": Case(["/scripts/greet", "x"]),
    "a script of an interpreter that is missing": Case(["/scripts/broken"]),
    "limits": Case(
        "ulimit -n; ulimit -Hn; ulimit -c; ulimit -Hc; ulimit -Hf; umask",
        {"ulimits": {"nofile": (64, 128), "core": -1, "fsize": (1 << 20, -1)}},
    ),
    # ----------------------------------------------------------------------- streams
    "standard input": Case("cat; echo $?; readlink /proc/self/fd/0"),
    "standard streams": Case("echo out; echo err >&2; echo x > /dev/stdout; echo y > /dev/stderr"),
    "standard streams of a user": Case(
        "echo x > /dev/stdout; echo y > /dev/stderr; echo z > /proc/self/fd/1", {"user": "app"}
    ),
    "descriptors": Case("ls /proc/self/fd | wc -l; readlink /proc/self/fd/1 | cut -d: -f1"),
    "much output": Case("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end >&2"),
    "a terminal": Case(
        f"tty; test -t 0 && test -t 1 && test -t 2 && echo all; {FACTS} $(tty); ls /dev/pts; "
        "echo x > /dev/tty; echo $TERM; stty -a | grep -o ' echo '",
        {"tty": True},
    ),
    "a terminal of a user": Case(
        f"{FACTS} $(tty) /dev/console; echo x > /dev/console; echo y > /dev/stderr",
        {"tty": True, "user": "app"},
    ),
    "the console": Case(f"{FACTS} /dev/console; echo x > /dev/console", {"tty": True}),
    "no console": Case("ls /dev/console"),
    "a program in the background": Case("sleep 1000 & echo out; exit 4"),
    # ------------------------------------------------------------ processes, signals
    "signals at the start": Case("grep -E '^Sig(Blk|Ign)|^ShdPnd' /proc/self/status"),
    "numbers of processes": Case("echo $$; ps -o pid=,ppid=,sid=,pgid= -p 1 | tr -s ' '"),
    "exit codes": Case("sh -c 'exit 255'; echo $?; sh -c 'kill -9 $$'; echo $?; exit 200"),
    "PID 1 cannot kill itself": Case("kill -9 $$; kill -TERM $$; kill -HUP $$; echo alive"),
    "a reaper": Case(
        "(sleep 0.01 &); sleep 0.3; ps ax -o stat= | grep -c Z; kill -9 $$", {"init": True}
    ),
    "orphans without a reaper": Case("sh -c 'sleep 0.01 &'; sleep 0.3; ps ax -o stat= | grep -c Z"),
    "a caught signal": Case(f"trap 'echo term; exit 3' TERM; {UP}", end="stop"),
    "a signal that nobody catches": Case(UP, end="stop"),
    "a signal that is ignored": Case(f"trap '' TERM; {UP}", end="stop"),
    "a signal and a reaper": Case("echo up; exec sleep 1000", {"init": True}, end="stop"),
    "KILL": Case(UP, end="KILL"),
    "HUP, caught": Case(f"trap 'echo hup; exit 5' HUP; {UP}", end="HUP"),
    "a stop signal": Case(f"trap 'exit 6' INT; {UP}", {"stop_signal": "INT"}, end="stop"),
    # ------------------------------------------------------------------- host's name
    "the host's name": Case("hostname; uname -n; cat /etc/hostname; echo $HOSTNAME"),
    "a host name with a domain": Case(
        "hostname; cat /etc/hostname; echo $HOSTNAME", {"hostname": "box.example.com"}
    ),
    "hosts": Case("cat /etc/hosts"),
    "name servers": Case("cat /etc/resolv.conf"),
    "names without a network": Case("getent hosts localhost; getent hosts box; echo $?"),
    "devices without a network": Case("ls /sys/class/net; cat /proc/net/dev | wc -l"),
    "sysctls of the network": Case(
        "cd /proc/sys/net/ipv4; cat ip_unprivileged_port_start ping_group_range"
    ),
    # -------------------------------------------------------------------------- exec
    "exec": Case(f"pwd; id; {STATUS}; umask; env | sort", exec={}),
    "exec as a user": Case(f"id; {STATUS}; echo $HOME", exec={"user": "app"}),
    "exec as root": Case("id; echo $HOME", {"user": "app"}, exec={"user": "root"}),
    "exec in a group": Case("id", exec={"user": ":5"}),
    "exec with more groups": Case("id", {"groups": ["tty"]}, exec={"user": "app"}),
    "exec inherits": Case(
        "id; pwd; echo $A $B; ulimit -n; cat /proc/self/status | grep NoNew",
        {"user": "app", "workdir": "/tmp", "env": {"A": "a", "B": "b"},
         "ulimits": {"nofile": 64}, "no_new_privileges": True},
        exec={"env": {"B": "own"}},
    ),
    "exec with fewer capabilities": Case(STATUS, {"cap_drop": ["ALL"]}, exec={}),
    "exec where root works": Case(
        "/bin/readlink /proc/self/cwd; ls; id -u", exec={"workdir": "/private", "user": "app"}
    ),
    "exec in a missing directory": Case("pwd", exec={"workdir": "/made/for/it"}),
    "exec in a file": Case("pwd", exec={"workdir": "/file"}),
    "exec with input": Case("cat; echo; echo end", exec={"input": "some\ninput"}),
    "exec without input": Case("cat; readlink /proc/self/fd/0", exec={}),
    "exec with a terminal": Case(f"tty; {FACTS} $(tty); ls /dev/console", exec={"tty": True}),
    "exec of nothing": Case(["nosuch"], exec={}),
    "exec of a file": Case(["/file"], exec={}),
    "exec, its code": Case("echo out; echo err >&2; exit 9", exec={}),
    "exec that kills itself": Case("kill -9 $$", exec={}),
    "exec with a program in the background": Case("sleep 2000 & echo started; exit 3", exec={}),
    "exec with a program that writes later": Case("(sleep 1; echo late) & echo now", exec={}),
    "exec sees the container": Case("ps ax -o args= | grep 'sleep 100[0]'; ls /proc | grep -c '^1$'",
                                    exec={}),
    "exec, signals": Case("grep -E '^Sig(Blk|Ign)|^ShdPnd' /proc/self/status", exec={}),
    "exec on a read-only root": Case("touch /x", {"read_only": True}, exec={}),
}  # fmt: skip


DIFFERENCES = {
    "ids in the table of mounts": "`uid=100000` in the options of a tmpfs",
    "owners of devices": "the owner of `/dev/null` and other devices",
    "devices of one's own": "`mknod` of a device",
    "name servers": "`/etc/resolv.conf`",
    "sysctls of the network": "ports below 1024 and `ping`, without a network",
    "no user 'app:staff:x'": '`user="app:staff:x"`',
    "no user '+7'": '`user="+7"`',
    "an empty program": '`""` as the program',
    "a program without a format": "a program that the kernel cannot execute",
    "a script of an interpreter that is missing": "a program that the kernel cannot execute",
    "exec of nothing": "`exec` of a program that is not there",
    "exec in a missing directory": "`exec` in a `workdir` that is not there",
    "exec with a program that writes later": "`exec` of a program that leaves others behind",
}
"""Cases that differ, each with the beginning of its line in ``differences.md``, which tells why."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is mounted."""
    place = tmp_path_factory.mktemp("shared")
    for name in ("directory", "other"):
        (place / name).mkdir()
        (place / name / "file").write_text(f"of {name}\n")
    (place / "directory" / "sub").mkdir()
    (place / "file").write_text("of file\n")
    return place


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("as-docker")


@pytest.fixture(scope="module")
def ours(home: Path) -> Iterator[pc.Engine]:
    """An engine that has the images."""
    folders = ("proc", "sys", "dev", "etc", "mnt", "srv", "home", "home/app", "root", "scripts")
    root = layer([
        *busybox(*PROGRAMS),
        *(member(name, type=b"5") for name in folders),
        member("tmp", type=b"5", mode=0o1777),
        member("private", type=b"5", mode=0o700),
        member("private/x", b"private\n", mode=0o600),
        member("own", type=b"5", mode=0o700, uid=7, gid=8),
        member("linked", type=b"2", linkname="/private", mode=0o777),
        member("file", b"a file\n", mode=0o644),
        member("scripts/greet", b'#!/bin/sh\necho "greet $*"\n'),
        member("scripts/plain", b"echo plain\n"),
        member("scripts/broken", b"#!/nosuch\n"),
        member("bin/setuid-id", Path("/usr/bin/id").read_bytes(), mode=0o4755),
        member("etc/passwd", PASSWD, mode=0o644),
        member("etc/group", GROUPS, mode=0o644),
        member("etc/nsswitch.conf", b"hosts: files\n", mode=0o644),
    ])  # fmt: skip
    with pc.Engine(home=home / "store") as engine:
        for name, config in IMAGES.items():
            place = home / name.partition(":")[0]
            Layout(place).image([root], {"Env": [PATH], **config})
            engine.images.load(place, name=name)
        yield engine


Theirs = Callable[[str], Result]


@pytest.fixture(scope="module")
def theirs(
    request: pytest.FixtureRequest, ours: pc.Engine, home: Path, shared: Path,
    docker: Callable[..., str], docker_client: list[str],
) -> Iterator[Theirs]:  # fmt: skip
    """The results of Docker, which needs half a second for each: some at a time."""
    ours.images.save(list(IMAGES), home / "images.tar")
    docker("load", "--quiet", "-i", str(home / "images.tar"))
    peer = Docker(docker_client, shared)
    names = [
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_as_in_docker
    ]
    with ThreadPoolExecutor(4) as pool:
        results = {name: pool.submit(peer.run, CASES[name]) for name in names}
        yield lambda name: results[name].result()
    peer.close()


@pytest.mark.parametrize("name", CASES)
def test_as_in_docker(name: str, ours: pc.Engine, theirs: Theirs, shared: Path) -> None:
    here, there = run_here(ours, shared, CASES[name]), theirs(name)
    if name in DIFFERENCES:
        assert here != there, "no difference any more: take it off both lists"
    else:
        assert here == there


def test_differences_are_documented() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "differences.md"
    begins = {line.split(" | ")[0].removeprefix("| ") for line in page.read_text().splitlines()}
    assert set(DIFFERENCES) <= set(CASES)
    assert set(DIFFERENCES.values()) <= begins
