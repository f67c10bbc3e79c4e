"""Where tests run: inside of other containers, and on accounts with other ids than usual."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.in_docker import FLAGS, InDocker
from helpers.layouts import Layout, busybox, layer, member, output
from helpers.registry import Proxy, Rule

import pytest_containers as pc

RUN = """
import pytest_containers as pc
with pc.Engine() as engine, engine.run("host:", ["echo", "it runs"]) as container:
    assert container.wait(60) == 0
    print(container.logs().stdout.strip(), engine.facts["identity"], engine.facts["identity_reason"])
"""
FACTS = """
import pytest_containers as pc
with pc.Engine() as engine:
    print(engine.facts["identity"], engine.facts["identity_reason"])
"""
AS_USER = """
# In a user namespace whose ids end at 65535, as in rootless Podman.
import os, sys
from pytest_containers.linux.process import CLONE_NEWUSER, unshare
(ready, inside), (mapped, outside) = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    unshare(CLONE_NEWUSER)
    os.write(inside, b"1")
    os.read(mapped, 1)
    os.setgroups([])
    os.setresgid(4321, 4321, 4321)
    os.setresuid(4321, 4321, 4321)
    os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
os.read(ready, 1)
for kind in ("uid", "gid"):
    with open(f"/proc/{pid}/{kind}_map", "w") as file:
        file.write("0 0 65536")
os.write(outside, b"1")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
FOLLOW_SETUP = """
import subprocess, sys
as_user, doctor, facts = sys.argv[1:]
command = [sys.executable, "-c", as_user]
advice = subprocess.run([*command, doctor, "setup"], stdout=subprocess.PIPE, check=True).stdout
subprocess.run(["sh", "-ex"], input=advice, check=True)
subprocess.run([*command, facts], check=True)
"""
NOBODY = """
import pytest_containers as pc
with pc.Engine() as engine, engine.run("host:", ["id", "-u"], user="nobody") as container:
    assert container.wait(60) == 0
    print(container.logs().stdout)
"""
PROCESS = """
import time
import pytest_containers as pc
from pytest_containers.engines.choose import create_engine
with create_engine("process") as engine:
    servers = [pc.services.Postgres(image="host:").start(engine, name=name) for name in ("a", "b")]
    assert servers[0].port == servers[1].port == 5432
    servers[0].sql("create table visit (name text)")
    who = f"psql {servers[1].internal_dsn} -Atc 'select inet_client_addr(), inet_server_addr()'"
    print(servers[0].exec(["sh", "-c", who], text=True).stdout.strip(), *[s.host for s in servers])
    print(servers[1].sql("select count(*) from pg_class where relname = 'visit'"))
    print(servers[0].exec(["sh", "-c", "echo no > /usr/no || echo no > /var/tmp/yes; id -un"]))
    for server in servers:
        server.container.remove()
    print(open("/proc/sysvipc/shm").read().count(chr(10)) - 1, "segments left")
"""
MASKED = """
import pytest_containers as pc
LOOK = "for p in /proc/[0-9]*; do ls $p/root/ >/dev/null 2>&1 && echo own; done; "
with pc.Engine() as engine, engine.run("host:", ["sleep", "1000"]) as a:
    with engine.run("host:", ["sleep", "1000"]):
        print(a.exec(["sh", "-c", LOOK + "kill -0 1 && echo sent"], text=True).stdout)
        a.write_text("/tmp/x", "")
        print(a.exec(["sh", "-c", "mv /tmp/x /var/tmp/y && echo moved"], text=True).stdout)
    network = engine.create_network()
    options = {"network": network, "ready": pc.wait.port(8000)}
    with engine.run("host:", ["python3", "-m", "http.server", "8000"], name="web", **options):
        ask = "import urllib.request as u; print(u.urlopen('http://web:8000/').status)"
        with engine.run("host:", ["python3", "-c", ask], network=network) as app:
            assert app.wait(60) == 0, app.logs()
            print(app.logs().stdout, "served")
    assert a.stats().pids == 1
"""
DATABASES = """
import os, pathlib, sys
import pytest
TEST = [
    "import pytest",
    "import pytest_containers as pc",
    "def seed(db): db.sql('create table t (x int)')",
    "db = pc.services.Postgres.fixture(image='host:', seed=seed)",
    "@pytest.mark.parametrize('number', [1, 2])",
    "def test_db(db, number):",
    "    assert db.sql('select count(*) from t') == [['0']]",
    "    db.sql('insert into t values (1)')",
    "def test_fails(db): assert not db",
]
pathlib.Path("/tmp/test_db.py").write_text("\\n".join(TEST))
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
plugins = ["-p", "no:cacheprovider", "-p", "pytest_containers.plugin"]
sys.exit(pytest.main([*plugins, "/tmp/test_db.py"]))
"""
PULL = """
import sys
from pytest_containers.cli import main
sys.exit(main(["pull", sys.argv[1]]))
"""
DOCTOR = "import sys; from pytest_containers.cli import main; sys.exit(main([sys.argv[1]]))"


def _programs(folder: Path, capabilities: dict[str, int]) -> list[str]:
    """Options for copies of the programs that map ids, each with a capability or none."""
    options = []
    for name, number in capabilities.items():
        shutil.copyfile(f"/usr/bin/{name}", folder / name)
        (folder / name).chmod(0o755)
        if number >= 0:  # vfs_cap_data of capabilities(7): revision 2, effective
            data = struct.pack("<5I", 0x02000001, 1 << number, 0, 0, 0)
            os.setxattr(folder / name, "security.capability", data)
        options.append(f"--volume={folder / name}:/usr/bin/{name}:ro")
    return options


@pytest.fixture
def bare(tmp_path: Path) -> list[str]:
    """Options for a Docker container whose newuidmap has no privileges."""
    return _programs(tmp_path, {"newuidmap": -1, "newgidmap": -1})


@pytest.fixture
def capable(tmp_path: Path) -> list[str]:
    """Options for a Docker container whose newuidmap has CAP_SETUID and no set-user-id bit."""
    return _programs(tmp_path, {"newuidmap": 7, "newgidmap": 6})


@pytest.mark.needs("docker", "root")
class TestInDocker:
    @pytest.mark.parametrize("user", ["0:0", "4321:4321"])
    def test_the_documented_flags_are_enough(self, in_docker: InDocker, user: str) -> None:
        done = in_docker(RUN, options=[*FLAGS, f"--user={user}"])
        assert done.stdout.startswith("it runs"), done.stderr
        doctor = in_docker(DOCTOR, "doctor", options=[*FLAGS, f"--user={user}"])
        assert "Containers run here." in doctor.stdout
        guide = Path(__file__).parents[2] / "docs" / "how-to" / "ci.md"
        if guide.exists():
            assert " ".join(FLAGS).replace("=", " ", 0).replace("opt=", "opt ") in " ".join(
                guide.read_text().split()
            )

    def test_default_flags_are_refused_by_the_filters_name(self, in_docker: InDocker) -> None:
        done = in_docker(RUN, options=[])
        assert (
            "clone3: Function not implemented. The seccomp filter around this process forbids it"
            in done.stderr
        )
        assert "--security-opt seccomp=unconfined" in done.stderr
        doctor, setup = (in_docker(DOCTOR, name, options=[]).stdout for name in ("doctor", "setup"))
        assert (
            "The seccomp filter around this process forbids it. Start the container with" in doctor
        )
        assert "Containers cannot run here" in doctor
        assert "# No command fixes this." in setup
        assert "sysctl" not in setup

    @pytest.mark.parametrize("user", [pytest.param("0:0", marks=pytest.mark.long), "1000:1000"])
    def test_the_process_engine_needs_no_flags(self, in_docker: InDocker, user: str) -> None:
        done = in_docker(PROCESS, options=[f"--user={user}"])
        lines = done.stdout.splitlines()
        assert len(lines) == 4, done.stderr
        addresses, first, second = lines[0].split()
        assert addresses == f"{first}|{second}"
        assert lines[1] == "[['0']]"
        assert lines[3] == "0 segments left"

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ([], "newuidmap is refused in a container without CAP_SYS_ADMIN"),
            (["--cap-add=SYS_ADMIN", "--security-opt=no-new-privileges"], "newuidmap gets no privileges here"),
            (["--cap-add=SYS_ADMIN"], ""),
        ],
    )  # fmt: skip
    @pytest.mark.long
    def test_a_user_whose_newuidmap_is_refused_has_a_single_id(
        self, in_docker: InDocker, options: list[str], reason: str
    ) -> None:
        options = [*FLAGS, "--user=1000:1000", *options]
        done = in_docker(RUN, options=options)
        mode = "single" if reason else "range"
        assert done.stdout.startswith(f"it runs {mode} {reason}"), done.stderr
        doctor = in_docker(DOCTOR, "doctor", options=options).stdout
        assert "Containers run here." in doctor
        assert (f"--  user ids          {reason}" in doctor) == bool(reason)
        if reason:
            other = in_docker(NOBODY, options=options)
            assert other.stdout.strip() == "65534", other.stderr

    @pytest.mark.long
    def test_other_reasons_for_a_single_id(self, in_docker: InDocker, bare: list[str]) -> None:
        user, root = [*FLAGS, "--user=1000:1000"], [*FLAGS, "--cap-drop=ALL"]
        for options, facts in (
            ([*user, *bare, "--cap-add=SYS_ADMIN"], "single newuidmap has neither the set-user-id bit"),
            ([*user, *root], "single newuidmap is refused in a container without CAP_DAC_OVERRIDE and"),
            ([*root, "--cap-add=SETFCAP"], "single root may not map ids without CAP_SETUID and CAP_SETGID"),
        ):  # fmt: skip
            done = in_docker(FACTS, options=options)
            assert done.stdout.startswith(facts), done.stderr
            doctor = in_docker(DOCTOR, "doctor", options=options).stdout
            assert f"--  user ids          {facts.removeprefix('single ')}" in doctor

    def test_a_root_without_capabilities(self, in_docker: InDocker) -> None:
        options = [*FLAGS, "--cap-drop=ALL"]
        refused = "Root may not map ids without CAP_SETUID and CAP_SETGID and CAP_SETFCAP: start"
        assert refused in in_docker(FACTS, options=options).stderr
        doctor = in_docker(DOCTOR, "doctor", options=options).stdout
        assert refused in doctor
        assert "Containers cannot run here: container ids." in doctor

    def test_newuidmap_with_file_capabilities_needs_no_other(
        self, in_docker: InDocker, capable: list[str]
    ) -> None:
        done = in_docker(FACTS, options=[*FLAGS, "--user=1000:1000", *capable])
        assert done.stdout == "range \n", done.stderr

    @pytest.mark.parametrize("user", [pytest.param("0:0", marks=pytest.mark.long), "4321:4321"])
    def test_a_masked_proc_is_shared(self, in_docker: InDocker, user: str) -> None:
        """As in a pod of Kubernetes: without a /proc of their own, containers are apart still."""
        options = [FLAGS[0], f"--user={user}"]
        done = in_docker(MASKED, options=options)
        assert done.stdout.split() == ["own", "sent", "moved", "200", "served"], done.stderr
        doctor = in_docker(DOCTOR, "doctor", options=options).stdout
        assert "--  own /proc         a part of /proc is masked here" in doctor
        assert "with --security-opt systempaths=unconfined" in doctor
        auto = next(line for line in doctor.splitlines() if line.startswith("ok  auto "))
        assert "takes native, which lacks capture" in auto and "own /proc" in auto
        assert "Containers run here." in doctor

    @pytest.mark.needs("postgresql")
    @pytest.mark.parametrize("user", [pytest.param("0:0", marks=pytest.mark.long), "4321:4321"])
    def test_a_database_behind_a_masked_proc(self, in_docker: InDocker, user: str) -> None:
        done = in_docker(DATABASES, options=[FLAGS[0], f"--user={user}"])
        assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
        label = "native engine: shares the /proc of this place"
        told = [line for line in done.stdout.splitlines() if label in line]
        assert [line.startswith("containers: ") for line in told] == [True, False], done.stdout

    def test_doctor_runs_a_container(self, in_docker: InDocker) -> None:
        options = [*FLAGS, "--env=PYTEST_CONTAINERS_HOME=/proc/nowhere"]
        doctor = in_docker(DOCTOR, "doctor", options=options)
        assert doctor.stdout.endswith("Containers cannot run here: a container.\n")
        assert doctor.returncode == 1

    def test_the_advice_of_setup_helps(self, in_docker: InDocker) -> None:
        options = [*FLAGS, "--cap-add=SYS_ADMIN"]
        done = in_docker(FOLLOW_SETUP, AS_USER, DOCTOR, FACTS, options=options)
        assert done.stdout == "range \n", done.stderr
        assert "echo user4321:1:4320" in done.stderr

    @pytest.mark.needs("docker-registry", "skopeo")
    @pytest.mark.long
    def test_a_pull_without_user_namespaces_is_one_sentence(
        self, in_docker: InDocker, proxy: Proxy, published: Callable[[str], str]
    ) -> None:
        name = f"{proxy.address}/{published('nowhere')}"
        # The layers arrive when it is known already that nothing can be unpacked.
        proxy.rules = [Rule("GET .*/blobs/", times=3, delay_s=1.0)]
        done = in_docker(PULL, name, options=["--network=host"])
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert last.startswith("pytest-containers: ")
        assert "clone3" in last
        assert "Traceback" not in done.stderr


@pytest.fixture
def subordinate(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Gives ranges to accounts, for this process and its children only."""
    files = {path: tmp_path / path.rpartition("/")[2] for path in ("/etc/subuid", "/etc/subgid")}
    mounted: list[str] = []

    def give(text: str) -> None:
        for path, file in files.items():
            file.write_text(text)
            if path not in mounted:
                subprocess.run(["mount", "--bind", str(file), path], check=True)
                mounted.append(path)

    yield give
    for path in mounted:
        subprocess.run(["umount", path], check=True)


@pytest.mark.needs("root")
class TestIds:
    """The test process has mounts of its own (`helpers.leaks.isolate`), so no other one sees this."""

    def image(self, layout: Layout) -> str:
        big = [member("big", b"x", uid=205001, gid=1000650000)]
        return layout.image([layer(busybox("stat", "id")), layer(big)])

    def test_owners_beyond_65535(
        self,
        layout: Layout,
        own_engine: Callable[..., pc.Engine],
        subordinate: Callable[[str], None],
    ) -> None:
        image = self.image(layout)
        subordinate("root:200000:65536\nroot:300000:2000000000\n")
        script = "stat -c %u:%g /big; id -u"
        assert (
            output(own_engine(), image, script, user="1000650000")
            == "205001:1000650000\n1000650000\n"
        )

    def test_the_advice_of_the_refusal_helps(
        self,
        layout: Layout,
        own_engine: Callable[..., pc.Engine],
        subordinate: Callable[[str], None],
    ) -> None:
        image = self.image(layout)
        subordinate("somebody:100000:65536\n")
        with pytest.raises(
            pc.ImageError, match="'big' belongs to 205001:1000650000.*larger range in /etc/subuid"
        ):
            own_engine().run(image, ["/bin/sh"])
        engine = own_engine()
        with pytest.raises(
            pc.StartError, match="0 to 65535; give the account that runs the tests as many"
        ):
            engine.run("host:", ["true"], user="1000650000")
        subordinate("somebody:100000:65536\nroot:200000:2000000000\n")
        engine = own_engine()
        assert output(engine, image, "stat -c %u:%g /big") == "205001:1000650000\n"
        with engine.run("host:", ["true"], user="1000650000") as container:
            assert container.wait(60) == 0

    def test_add_of_an_archive_names_the_owner(
        self,
        tmp_path: Path,
        own_engine: Callable[..., pc.Engine],
        subordinate: Callable[[str], None],
    ) -> None:
        subordinate("")
        (tmp_path / "context").mkdir()
        (tmp_path / "context" / "a.tar").write_bytes(layer([member("big", b"x", uid=205001)]))
        (tmp_path / "context" / "Dockerfile").write_text("FROM scratch\nADD a.tar /x/\n")
        with pytest.raises(
            pc.BuildError, match=r"/x/big belongs to 205001:0, and this account has no such"
        ):
            own_engine().build(tmp_path / "context")

    @pytest.mark.parametrize(
        ("given", "uid_map"),
        [
            ("root:200000:65536\n0:200000:65536\nroot:250000:100000\n", [(0, 200000, 65536), (65536, 265536, 84464)]),
            ("root:4294900000:4294967295\n", [(0, 4294900000, 67295)]),
        ],
    )  # fmt: skip
    def test_ranges_that_overlap_or_end_late(
        self,
        own_engine: Callable[..., pc.Engine],
        subordinate: Callable[[str], None],
        given: str,
        uid_map: list[tuple[int, int, int]],
    ) -> None:
        subordinate(given)
        with own_engine().run("host:", ["cat", "/proc/self/uid_map"]) as container:
            container.wait(60)
            numbers = map(int, container.logs().stdout.split())
        assert list(zip(*[numbers] * 3, strict=True)) == uid_map

    def test_more_ranges_than_a_map_takes(
        self, own_engine: Callable[..., pc.Engine], subordinate: Callable[[str], None]
    ) -> None:
        subordinate("".join(f"root:{start}:5000\n" for start in range(10**6, 10**7, 10**4)))
        with own_engine().run("host:", ["cat", "/proc/self/uid_map"]) as container:
            assert container.wait(60) == 0
            lines = container.logs().stdout.splitlines()
        assert 150 < len(lines) < 340

    def test_root_leaves_alone_what_others_were_given(
        self, own_engine: Callable[..., pc.Engine], subordinate: Callable[[str], None]
    ) -> None:
        subordinate("somebody:100000:65536\nsomebody:200000:65536\n")
        with own_engine().run("host:", ["cat", "/proc/self/uid_map"]) as container:
            container.wait(60)
            assert container.logs().stdout.split() == ["0", "265536", "65536"]
