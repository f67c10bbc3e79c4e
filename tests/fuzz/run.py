"""Run harnesses under atheris, each in a process of its own; see ``tox -e fuzz``.

``python -m fuzz.run [--seconds N] [--corpus DIR] [TARGET...]`` in ``tests``. An input that breaks a
harness is written below the corpus, and the command to try it again is printed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path


def _fuzz(name: str, arguments: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["pytest_containers", "fuzz"]):
        from fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name].run)
    atheris.Fuzz()


def _run(name: str, seeds: tuple[bytes, ...], corpus: Path, seconds: int) -> bool:
    folder = corpus / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (folder / f"seed-{number}").write_bytes(seed)
    command = [
        sys.executable, "-m", "fuzz.run", "--child", name, f"-max_total_time={seconds}", "-timeout=10",
        "-rss_limit_mb=1024", "-max_len=400", "-print_final_stats=1", f"-artifact_prefix={corpus}/{name}-", str(folder),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="pytest-containers-fuzz-") as temporary:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            env={**os.environ, "TMPDIR": temporary},  # it ends without a clean-up
        )
    output = done.stdout.decode(errors="replace")
    executions = re.search(r"number_of_executed_units: (\d+)", output)
    covered = re.findall(r"cov: (\d+)", output)
    print(
        f"{name}: {executions[1] if executions else '?'} executions in {seconds} s, "
        f"{covered[-1] if covered else '?'} places reached, "
        + ("no finding" if done.returncode == 0 else "a finding"),
        flush=True,
    )
    if done.returncode:
        print(output[-4000:], flush=True)
    return done.returncode == 0


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        _fuzz(sys.argv[2], sys.argv[3:])
        return 0
    from fuzz.targets import TARGETS

    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--corpus", type=Path, help="kept from one run to the next")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pytest-containers-fuzz-") as temporary:
        corpus = options.corpus or Path(temporary)
        passed = [
            _run(name, TARGETS[name].seeds, corpus, options.seconds)
            for name in options.targets or TARGETS
        ]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    raise SystemExit(main())
