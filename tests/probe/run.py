"""Run ``probe.c`` here and in the peers, and write the table of differences.

Usage, as root, from the root of the checkout::

    PYTHONPATH=tests python -m probe.run docs/explanation/isolation.md
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from helpers import dockerd
from helpers.layouts import Layout, layer, member

import pytest_containers as pc

Answers = dict[str, str]
"""The answers of one place, by question."""

SOURCE = Path(__file__).with_name("probe.c")
IMAGE = "probe:1"
NEWER_POLICY = (
    "Docker 20.10 has an older policy than ours, which is that of Docker today: it permits the call"
)
"""Why something is open here that Docker 20.10 closes."""
OPEN_HERE = {
    "name_to_handle_at": f"{NEWER_POLICY}, which gives a number and opens nothing.",
    "process_vm_readv": f"{NEWER_POLICY}, which asks for the same rights as ptrace.",
}
_ROOT = "Root of the container is not root of the host here, so the kernel refuses"
_HOST_FILE = f"{_ROOT} what belongs to the host's root."
_CGROUPS = (
    "One read-only mount here, with a cgroup namespace; Docker and Podman mount each hierarchy of "
    "version 1 read-only below a directory that can be written to."
)
_PODMAN = "Podman has a policy and capabilities of its own."
_CLOSED_SINCE = "Docker has closed it since 20.10, and so do we."
REASONS = {
    **OPEN_HERE,
    "network interfaces": "The others ran without a network.",
    "mount /dev": "Podman adds noexec.",
    "mount /sys/fs/cgroup": _CGROUPS,
    "write /sys/fs/cgroup": _CGROUPS,
    "write /sys/fs/cgroup/memory": _CGROUPS,
    "write /sys/fs/cgroup/cgroup.procs": _CGROUPS,
    "read /proc/kmsg": _HOST_FILE,
    "read /proc/kpagecount": _HOST_FILE,
    "read /proc/vmallocinfo": _HOST_FILE,
    "read /proc/slabinfo": _HOST_FILE,
    "read /proc/interrupts": _CLOSED_SINCE,
    "write /proc/sys": f"{_ROOT} before the read-only mount does.",
    "write /proc/irq": f"{_ROOT} before the read-only mount does.",
    "io_uring_setup": _CLOSED_SINCE,
    "AF_ALG": _CLOSED_SINCE,
    "AF_VSOCK": _CLOSED_SINCE,
}
"""Why an answer here is another one than in Docker or Podman, by the beginning of the question."""
_BEGIN, _END = "<!-- measured: probe -->\n", "<!-- measured: end -->\n"


def compile_probe(path: Path) -> Path:
    """Make the program, which needs nothing of the place where it runs."""
    subprocess.run(["gcc", "-static", "-O2", "-Wall", "-o", path, SOURCE], check=True)
    return path


def write_image(path: Path, binary: Path) -> Path:
    """Write an OCI layout with nothing but the program."""
    folders = (member(name, type=b"5") for name in ("proc", "sys", "dev", "etc"))
    root = layer([member("probe", binary.read_bytes()), *folders])
    Layout(path).image([root], {"Cmd": ["/probe"]})
    return path


def answers_of(output: str) -> Answers:
    """Read the output of the program."""
    return dict(line.split("\t", 1) for line in output.splitlines())


def ask_here(engine: pc.Engine) -> Answers:
    """Run the program in a container of an engine that has the image."""
    with engine.run(IMAGE, wait_ready=False) as container:
        assert container.wait(60) == 0
        return answers_of(container.logs().stdout)


def ask_docker(client: Sequence[str], archive: Path) -> Answers:
    """Run the program in Docker, from an archive of the image."""
    _output([*client, "load", "--quiet", "-i", str(archive)])
    return answers_of(_output([*client, "run", "--rm", "--network=none", IMAGE]))


def ask_podman(work: Path, archive: Path) -> Answers:
    """Run the program in Podman, with a store of its own."""
    command = ["podman", f"--root={work}/p", f"--runroot={work}/r", "--cgroup-manager=cgroupfs",
               "--storage-driver=vfs", "--runtime=runc"]  # fmt: skip
    _output([*command, "load", "--quiet", "-i", str(archive)])
    # Its own limits are above those that a root without CAP_SYS_RESOURCE may give.
    limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
    answers = answers_of(_output([*command, "run", "--rm", "--network=none", *limits, IMAGE]))
    _output([*command, "system", "reset", "--force"])
    return answers


def ask_bubblewrap(work: Path, binary: Path) -> Answers:
    """Run the program in bubblewrap, with the arguments that its users give most."""
    root = work / "root"
    for name in ("proc", "sys", "dev", "etc"):
        (root / name).mkdir(parents=True)
    shutil.copy(binary, root / "probe")
    arguments = ["--unshare-all", "--bind", str(root), "/", "--proc", "/proc", "--dev", "/dev",
                 "--ro-bind", "/sys", "/sys"]  # fmt: skip
    return answers_of(_output(["bwrap", *arguments, "/probe"]))


def reason_for(question: str) -> str | None:
    """Return why an answer here is another one than in Docker or Podman."""
    fitting = [start for start in REASONS if question.startswith(start)]
    return REASONS[max(fitting, key=len)] if fitting else None


def table(places: Mapping[str, Answers]) -> str:
    """Return the differences as Markdown: a table, and where only bubblewrap differs."""
    here, *peers = places
    rows, same, only_bubblewrap = [], 0, []
    for question, ours in places[here].items():
        others = {peer: places[peer].get(question, "-") for peer in peers}
        different = {peer for peer, theirs in others.items() if theirs != ours}
        if not different:
            same += 1
        elif different == {"bubblewrap"}:
            only_bubblewrap.append(question)
        else:
            reason = reason_for(question) or ("" if "Docker" in different else _PODMAN)
            rows.append(f"| {question} | {' | '.join([ours, *others.values()])} | {reason} |")
    text = (
        f"Of {len(places[here])} answers, {same} are the same everywhere. Where Docker or Podman\n"
        f"differs ({len(rows)}):\n\n"
        f"| question | {' | '.join(places)} | why |\n" + "|---" * (len(places) + 2) + "|\n"
    )
    alone = (
        f"bubblewrap alone differs in {len(only_bubblewrap)}, since it has no filter, keeps all "
        f"capabilities and masks nothing unless it is told to: {', '.join(only_bubblewrap)}."
    )
    return "\n".join([text.rstrip(), *rows, "", textwrap.fill(alone, 100), ""])


def main(page: Path) -> None:
    """Ask everywhere, and write the table into a page."""
    with tempfile.TemporaryDirectory(prefix="pc-", dir="/tmp") as directory:
        work = Path(directory)
        binary = compile_probe(work / "probe")
        archive = work / "probe.tar"
        places: dict[str, Answers] = {}
        with pc.Engine(home=work / "store") as engine:
            engine.images.load(write_image(work / "image", binary), name=IMAGE)
            engine.images.save([IMAGE], archive)
            places["here"] = ask_here(engine)
        with dockerd.daemon(work) as client:
            places["Docker"] = ask_docker(client, archive)
        places["Podman"] = ask_podman(work, archive)
        places["bubblewrap"] = ask_bubblewrap(work, binary)
    text = page.read_text()
    versions = ", ".join(map(_version, ("dockerd", "podman", "bwrap")))
    part = f"{_BEGIN}\nAs root, kernel {os.uname().release.split('-')[0]}, {versions}.\n{table(places)}\n{_END}"
    pattern = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
    page.write_text(pattern.sub(lambda match: part, text))


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} {command[-1]}: {done.stderr}")
    return done.stdout


def _version(program: str) -> str:
    words = _output([program, "--version"]).replace(",", "").split()
    number = next(word for word in words if word[0].isdigit())
    name = {"dockerd": "Docker", "podman": "Podman", "bwrap": "bubblewrap"}[program]
    return f"{name} {number.partition('+')[0]}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
