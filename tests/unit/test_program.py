"""Programs of system calls: data, both runners, and what they report."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from pytest_containers.linux import elf, reaper, standalone, stubs
from pytest_containers.linux.numbers import NR
from pytest_containers.linux.program import (
    BLOCK_AT,
    HEADER_SIZE,
    RESULT_AT,
    STATUS_FD,
    STEP_SIZE,
    Param,
    Program,
    Result,
)
from pytest_containers.linux.spawn import spawn, stub_available
from pytest_containers.linux.standalone import StandaloneProgram

pytestmark = pytest.mark.alone  # forks this process: no thread of a worker may be in its way

RUNNERS = ["python", "stub"]


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> str:
    if request.param == "stub" and not stub_available():
        pytest.skip("needs machine code for this machine")
    return str(request.param)


def exit_code(program: Program, runner: str) -> int:
    with spawn(program, runner=runner) as child:
        assert child.outcome() is None
        return os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])


def test_executes_a_program(runner: str) -> None:
    program = Program()
    program.execve("run sh", [b"/bin/sh"], [b"sh", b"-c", b"exit $CODE"], [b"CODE=42"])
    assert exit_code(program, runner) == 42


def test_results_are_passed_on(runner: str) -> None:
    reader, writer = os.pipe()
    program = Program()
    copy = program.add("dup", NR["dup"], writer)
    program.add("write", NR["write"], Result(copy), b"hello", 5)
    program.add("write again", NR["write"], Result(copy), b" you", 4)
    program.add("exit", NR["exit_group"], 7)
    assert exit_code(program, runner) == 7
    assert os.read(reader, 100) == b"hello you"
    os.close(reader)
    os.close(writer)


def test_a_failure_names_its_step(runner: str) -> None:
    program = Program()
    program.add("ignored", NR["close"], -1, ignore=(9,))
    program.add(("enter", "/nosuch"), NR["chdir"], b"/nosuch")
    program.add("exit", NR["exit_group"], 0)
    with spawn(program, runner=runner) as child:
        failure = child.outcome()
        assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == 127
        assert child.result(0) == -9
        assert child.result(2) is None
    assert failure is not None
    assert (failure.step, failure.errno) == (1, 2)
    assert str(failure) == "enter /nosuch: No such file or directory"


def test_the_telling_attempt_of_a_path_search(runner: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("not executable")
    program = Program()
    paths = [b"/nosuch/plain", os.fsencode(tmp_path / "plain"), b"/nosuch2/plain"]
    program.execve("execute plain", paths, [b"plain"], [])
    with spawn(program, runner=runner) as child:
        failure = child.outcome()
        os.waitpid(child.pid, 0)
    assert failure is not None and failure.errno == 13


def test_parameters_are_filled_per_copy(runner: str) -> None:
    template = Program()
    template.add("exit", NR["exit_group"], Param("code"))
    assert [exit_code(template.bind({"code": code}), runner) for code in (3, 4)] == [3, 4]
    with pytest.raises(ValueError, match="unbound parameters: code"):
        spawn(template, runner=runner)


def test_a_status_descriptor_survives_closing_all(runner: str) -> None:
    program = Program()
    program.add("keep", NR["dup3"], Param(STATUS_FD), 3, os.O_CLOEXEC)
    program.add("close", NR["close_range"], 4, 0xFFFFFFFF, 0)
    program.add("fail", NR["chdir"], b"/nosuch")
    program.add("exit", NR["exit_group"], 0)
    with spawn(program, runner=runner) as child:
        failure = child.outcome()
        os.waitpid(child.pid, 0)
    assert failure is not None and failure.label == "fail"


def test_signals_are_default_in_the_new_program(runner: str) -> None:
    program = Program()
    program.reset_signals()
    script = b"grep -E 'Sig(Blk|Ign)' /proc/self/status; kill -TERM $$"
    program.execve("run sh", [b"/bin/sh"], [b"sh", b"-c", script], [b"PATH=/usr/bin:/bin"])
    assert exit_code(program, runner) == -15


def test_mistakes_are_told(runner: str) -> None:
    program = Program()
    with pytest.raises(ValueError, match="without steps"):
        spawn(program, runner=runner)
    with pytest.raises(ValueError, match="six arguments"):
        program.add("many", 1, 1, 2, 3, 4, 5, 6, 7)
    with pytest.raises(ValueError, match="no earlier step"):
        program.add("later", 1, Result(5))
    with pytest.raises(TypeError, match="bytes, not str"):
        program.add("text", 1, "text")  # type: ignore[arg-type]


def test_children_leave_no_descriptors(runner: str) -> None:
    program = Program()
    program.add("exit", NR["exit_group"], 0)
    exit_code(program, runner)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        exit_code(program, runner)
    assert len(os.listdir("/proc/self/fd")) == before


def two_programs(second: StandaloneProgram) -> tuple[Program, int]:
    """A program that executes another one, and the file of that."""
    file = second.open()
    first = Program()
    first.successor = second
    first.add("keep the status pipe", NR["dup3"], Param(STATUS_FD), standalone.STATUS, 0)
    first.add("execute", NR["execveat"], file, b"", [b"start"], [], 0x1000)
    return first, file


def test_a_program_may_be_a_file_of_its_own(runner: str) -> None:
    compiled = StandaloneProgram()
    argv = Param("argv")
    compiled.execve("run sh", [b"/nosuch/sh", b"/bin/sh"], argv, [b"CODE=42"])
    for code in (b"$CODE", b"43"):
        first, file = two_programs(compiled.bind({"argv": [b"sh", b"-c", b"exit " + code]}))
        assert exit_code(first, runner) == int(code.replace(b"$CODE", b"42"))
        os.close(file)


@pytest.mark.parametrize("last", ["step", "execve"])
def test_a_failure_in_the_second_program_names_its_step(runner: str, last: str) -> None:
    second = StandaloneProgram()
    second.add("ignored", NR["close"], -1, ignore=(9,))
    if last == "step":
        second.add(("enter", "/nosuch"), NR["chdir"], b"/nosuch")
    second.execve(("run", "sh"), [b"/nosuch/sh", b"/etc/passwd", b"/nosuch/too"], [b"sh"], [])
    first, file = two_programs(second)
    with spawn(first, runner=runner) as child:
        failure = child.outcome()
        os.waitpid(child.pid, 0)
    os.close(file)
    assert (
        str(failure)
        == {
            "step": "enter /nosuch: No such file or directory",
            "execve": "run sh: Permission denied",
        }[last]
    )


@pytest.mark.parametrize("size", [1, 5000, 70_000])
def test_a_second_program_that_others_control_is_not_waited_for(runner: str, size: int) -> None:
    """It writes what is no report, and keeps the status descriptor open."""
    first = Program()
    first.successor = StandaloneProgram()
    first.add("keep the status pipe", NR["dup3"], Param(STATUS_FD), standalone.STATUS, 0)
    script = f"head -c {size} /dev/zero >&3; exec sleep 1000"
    first.execve("run sh", [b"/bin/sh"], [b"sh", b"-c", script.encode()], [b"PATH=/usr/bin:/bin"])
    with spawn(first, runner=runner) as child:
        assert str(child.outcome()) == "the second program: the process was killed"
        os.kill(child.pid, 9)
        os.waitpid(child.pid, 0)


def test_a_status_descriptor_that_others_keep_is_not_waited_for(runner: str) -> None:
    """They have opened that of the second program, in the moment before its last execve."""
    first = Program()
    first.successor = StandaloneProgram()
    first.add("keep the status pipe", NR["dup3"], Param(STATUS_FD), standalone.STATUS, 0)
    script = b"sleep 1000 >/dev/null & echo $! >/proc/self/fd/3; exit 3"
    first.execve("run sh", [b"/bin/sh"], [b"sh", b"-c", script], [b"PATH=/usr/bin:/bin"])
    with spawn(first, runner=runner) as child:
        holder = int(os.read(child.status_fd, 100))
        try:
            assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == 3
            assert not child.is_through
            assert child.outcome(ended=True) is None
        finally:
            os.kill(holder, 9)


def test_the_file_of_a_program_cannot_be_changed() -> None:
    file = StandaloneProgram().open()
    with pytest.raises(PermissionError):
        os.write(file, b"x")
    os.close(file)


@pytest.mark.needs("aarch64")
def test_the_file_of_a_program_for_aarch64_under_qemu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {"write": 64, "exit_group": 94, "close": 57, "fcntl": 25}
    for name, number in numbers.items():
        monkeypatch.setitem(NR, name, number)
    monkeypatch.setattr(standalone, "MACHINE", "aarch64")
    monkeypatch.setattr("pytest_containers.linux.elf.MACHINE", "aarch64")
    monkeypatch.setattr(StandaloneProgram, "_end", (57, -1))
    qemu = shutil.which("qemu-aarch64") or ""
    reader, writer = os.pipe()
    program = StandaloneProgram()
    program.add("greet", 64, writer, b"hello", 5)
    ends = program.bind({})
    ends.add("exit", 94, 55)
    program.add("fail", 57, -1)
    results = []
    for number, each in enumerate((ends, program)):
        file = each.open()
        path = tmp_path / str(number)
        path.write_bytes(Path(f"/proc/self/fd/{file}").read_bytes())
        path.chmod(0o755)
        os.close(file)
        command = f"exec {standalone.STATUS}>report{number}; exec {qemu} {path}"
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, pass_fds=[writer])
        results.append(done.returncode)
    assert results == [55, 127]
    assert os.read(reader, 100) == b"hello" * 2
    assert (tmp_path / "report0").read_bytes() == b""
    report = (tmp_path / "report1").read_bytes()
    assert len(report) == len(program.image())
    (address,) = struct.unpack_from("=q", report)
    step = (address - BLOCK_AT - HEADER_SIZE) // STEP_SIZE
    assert program.labels[step] == "fail"
    assert struct.unpack_from("=q", report, HEADER_SIZE + step * STEP_SIZE + RESULT_AT) == (-9,)
    os.close(reader)
    os.close(writer)


AARCH64 = """
#include <stdint.h>
#include <string.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
#include <sys/wait.h>
static const unsigned char code[] = {CODE};
int main(void) {
    unsigned char *text = mmap(0, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0);
    memcpy(text, code, sizeof code);
    mprotect(text, 4096, PROT_READ|PROT_EXEC);
    __builtin___clear_cache((char *)text, (char *)text + 4096);
    static int64_t block[15 + 11 * 4];
    int64_t *step = block + 15;
    int fds[2];
    if (pipe(fds)) return 90;
    /* dup(fds[1]) -> fd of the write; write; a failing close that is ignored; exit(55) */
    step[0] = 23; step[1] = fds[1]; step[8] = 120 + 88 + 8;
    step[11] = 64; step[12] = 0; step[13] = (int64_t)"hello"; step[14] = 5;
    step[22] = 57; step[23] = -1; step[31] = 1 << 9;
    step[33] = 94; step[34] = 55;
    pid_t pid = fork();
    if (pid == 0) {
        register int64_t x0 asm("x0") = 0, x1 asm("x1") = 0, x2 asm("x2") = (int64_t)block;
        register void *walk asm("x9") = text + WALK;
        asm volatile("br %0" :: "r"(walk), "r"(x0), "r"(x1), "r"(x2));
    }
    int status; char buffer[6] = {0};
    waitpid(pid, &status, 0);
    if (read(fds[0], buffer, 5) != 5 || strcmp(buffer, "hello")) return 91;
    return WEXITSTATUS(status);
}
"""


@pytest.mark.needs("aarch64")
def test_the_code_for_aarch64_under_qemu(tmp_path: Path) -> None:
    code = ", ".join(str(byte) for byte in stubs.CODE["aarch64"])
    source = AARCH64.replace("CODE", code, 1).replace("WALK", str(stubs.WALK_AT["aarch64"]))
    (tmp_path / "walk.c").write_text(source)
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    assert compiler and qemu
    binary = tmp_path / "walk"
    subprocess.run([compiler, "-O1", "-static", "-o", binary, tmp_path / "walk.c"], check=True)
    assert subprocess.run([qemu, binary]).returncode == 55


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_reaper_is_an_elf_file(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr(elf, "MACHINE", machine)
    code = reaper._CODE[machine]
    data = elf.elf([elf.ElfSegment(0x400000, code)])
    assert data.startswith(b"\x7fELF\2\1\1")
    kind, number, _, entry = struct.unpack_from("<HHIQ", data, 16)
    assert (kind, number) == (2, {"x86_64": 62, "aarch64": 183}[machine])
    _, _, offset, address = struct.unpack_from("<IIQQ", data, 64)
    assert entry == address == 0x400000
    assert data[offset:].rstrip(b"\0") == code.rstrip(b"\0")
