"""The examples of docs/how-to/ci.md, and the action, run where a container can stand in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from helpers.in_docker import FLAGS, InDocker

from pytest_containers.engines.shared_proc import WORDS

ROOT = Path(__file__).parents[2]
PAGE, ACTION = ROOT / "docs/how-to/ci.md", ROOT / "action.yml"
NATIVE, PROCESS = "native engine", "process engine: files confined, processes visible"
# Installs are of this machine's environment, which is there already.
SHIM = '#!/bin/sh\n[ -z "$SHIMS_LOG" ] || echo "${0##*/} $*" >> "$SHIMS_LOG"\n'
SUDO = SHIM + 'exec "$@"\n'
SYSCTL = SHIM + '[ "$1" != -n ] || echo "$RESTRICTED"\n'
PROGRAM = '#!/bin/sh\nexec {python} -m {module} "$@"\n'
TEST = """
def test_a_container(containers):
    assert containers.run("host:", ["echo", "it runs"], ready=None).wait(30) == 0
"""
RUN = f"""
import os, pathlib, subprocess, sys
shims, *script = sys.argv[1:]
job = pathlib.Path("/tmp/job/checkout")  # apart: what is tested may be mounted below /tmp
job.mkdir(parents=True)
(job / "test_it.py").write_text({TEST!r})
(job / ".venv").symlink_to(f"{{shims}}/venv")
environ = {{**os.environ, "PATH": f"{{shims}}:/usr/bin:/bin", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_ADDOPTS": "-p pytest_containers.plugin -p no:cacheprovider"}}
for step in script:
    code = subprocess.run(["sh", "-ec", step], cwd=job, env=environ).returncode
    if code:
        sys.exit(code)
"""

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="needs a checkout, with docs")


def _block(title: str) -> str:
    """Return the block of code below a heading of the page."""
    section = PAGE.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    match = re.search(r"^```\w+\n(.*?)^```", section, re.M | re.S)
    assert match is not None, title
    return match[1]


@pytest.fixture
def shims(tmp_path: Path) -> Path:
    """Programs of the CI's image: installers that do nothing, and this environment's pytest."""
    folder = tmp_path / "shims"
    (folder / "venv/bin").mkdir(parents=True)
    programs = {"pip": SHIM, "sudo": SUDO, "sysctl": SYSCTL}
    for name, module in (("pytest", "pytest"), ("pytest-containers", "pytest_containers")):
        programs[name] = PROGRAM.format(python=sys.executable, module=module)
    programs["venv/bin/pip"], programs["venv/bin/pytest"] = SHIM, programs["pytest"]
    # `python3 -m venv` has made .venv already: any other use of it would be an error here.
    programs["python3"] = '#!/bin/sh\n[ "$*" = "-m venv .venv" ]\n'
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def _gitlab() -> tuple[list[str], list[str]]:
    (job,) = yaml.safe_load(_block("GitLab")).values()
    return [], job["script"]


def _kubernetes() -> tuple[list[str], list[str]]:
    (container,) = yaml.safe_load(_block("Kubernetes"))["spec"]["containers"]
    context = container["securityContext"]
    assert context["seccompProfile"] == {"type": "Unconfined"}
    assert container["command"][:2] == ["sh", "-ec"]
    return [FLAGS[0], f"--user={context['runAsUser']}"], container["command"][2:]


def _circleci() -> tuple[list[str], list[str]]:
    steps = yaml.safe_load(_block("CircleCI"))["jobs"]["tests"]["steps"]
    return [], [step["run"] for step in steps if "run" in step]


def _bitbucket() -> tuple[list[str], list[str]]:
    (step,) = yaml.safe_load(_block("Bitbucket"))["pipelines"]["default"]
    return [], step["step"]["script"]


def _jenkins() -> tuple[list[str], list[str]]:
    text = _block("Jenkins")
    (options,) = re.findall(r"args '(.*)'", text)
    return options.split(), re.findall(r"sh '(.*)'", text)


def _dev_container() -> tuple[list[str], list[str]]:
    settings = json.loads(_block("Dev containers"))
    return settings["runArgs"], [settings["postCreateCommand"], "pytest --containers-engine=auto"]


@pytest.mark.needs("docker", "root")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "header"),
    [
        (_gitlab, PROCESS), (_circleci, PROCESS), (_bitbucket, PROCESS), (_kubernetes, WORDS),
        (_jenkins, NATIVE), (_dev_container, NATIVE),
    ],
)  # fmt: skip
def test_an_example_runs(in_docker: InDocker, shims: Path, example: object, header: str) -> None:
    assert callable(example)
    options, script = example()
    # To read and run for any user: directories of pytest are for their owner only.
    shown = f"--volume={shims}:/shims:ro"
    done = in_docker(RUN, "/shims", *script, options=[shown, *options])
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^containers: .*, {header}$", done.stdout, re.M), done.stdout
    assert "1 passed" in done.stdout


def _steps(shims: Path, steps: Sequence[dict[str, object]], **environ: str) -> list[str]:
    """Run steps as a runner of GitHub does, and return what was called of the shims."""
    log = shims / "log"
    for step in steps:
        if "run" not in step:
            continue
        own = step.get("env", {})
        assert isinstance(own, dict)
        given = {"CACHE_FILE": environ.get("CACHE_FILE", ""), "PYTHON": sys.executable}
        assert set(own) <= set(given)
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", str(step["run"])],
            env={**os.environ, **given, **environ, "SHIMS_LOG": str(log),
                 "PATH": f"{shims}:{os.environ['PATH']}"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize("restricted", ["0", pytest.param("1", marks=pytest.mark.long)])
def test_the_action(shims: Path, tmp_path: Path, restricted: str) -> None:
    steps = yaml.safe_load(ACTION.read_text())["runs"]["steps"]
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("file"))
    before = ["import ../root.tar small:1", 'cache export "$CACHE_FILE"']
    environ = {"CACHE_FILE": str(tmp_path / "images.tar"), "RESTRICTED": restricted}
    stores = [{"PYTEST_CONTAINERS_HOME": str(tmp_path / name)} for name in ("one", "other")]
    made = [{"run": f"cd {shims}; pytest-containers {words}"} for words in before]
    _steps(shims, made, **environ, **stores[0])
    listed = [{"run": "pytest-containers images | grep small"}]
    calls = _steps(shims, [*steps, *listed], **environ, **stores[1])
    change = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    assert (f"sudo {change}" in calls and change in calls) == (restricted == "1")


def test_the_action_is_used_as_documented(shims: Path) -> None:
    job = yaml.safe_load(_block("GitHub Actions"))["jobs"]["tests"]
    (use,) = [step for step in job["steps"] if "/pytest-containers@" in step.get("uses", "")]
    assert set(use["with"]) <= set(yaml.safe_load(ACTION.read_text())["inputs"])
    own = [step["run"] for step in job["steps"] if "run" in step]
    assert own[0].startswith("pip install")
    assert own[1] == "pytest --containers-engine=auto"
