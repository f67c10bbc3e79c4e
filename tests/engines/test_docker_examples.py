"""The README's examples on a daemon of Docker, unchanged: with its images, or skipped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import dockerd, inner

EXAMPLES = Path(__file__).parents[2] / "examples"
FAST = ("test_http_service.py", "test_own_service.py", "test_parallel.py", "test_build.py")


@pytest.mark.needs("docker", "root")
@pytest.mark.slow
def test_examples_pass_or_say_what_they_need(
    pytester: pytest.Pytester,
    daemon: dockerd.Daemon,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if not EXAMPLES.exists():
        pytest.skip("needs a checkout, with examples")
    monkeypatch.setenv("DOCKER_HOST", daemon.url)
    inner.prepare(monkeypatch, tmp_path / "home")
    settings = pytester.makeini("[pytest]\nfilterwarnings = error")
    images = [f"--containers-image={name}={dockerd.IMAGE}" for name in ("site", "echo")]
    with daemon.entered():
        result = pytester.runpytest_subprocess(
            "-p", "pytest_containers.plugin", "-p", "no:cacheprovider", "-rs",
            "--containers-engine=docker", *images, f"--rootdir={EXAMPLES}", "-c", str(settings),
            *(str(EXAMPLES / name) for name in FAST),
        )  # fmt: skip
    result.assert_outcomes(passed=5, skipped=8)
    reasons = re.findall(r"^SKIPPED \[\d+\] \S+: (.*)$", result.stdout.str(), re.M)
    assert all("use engine 'native'" in reason for reason in reasons), reasons
