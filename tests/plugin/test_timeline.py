"""The page of ``--containers-report``: its data, and what a browser makes of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import Browser
from helpers.timeline import data_of

import pytest_containers as pc

HOSTILE = "</script><img src=x onerror=alert(1)><svg onload=alert(2)><!--"
SUITE = f"""
import pytest
import pytest_containers as pc

HOSTILE = {HOSTILE!r}


def load(container):
    container.write_text("/srv/data", "seeded")


db = pc.container_fixture(
    "host:", ["sh", "-c", "cat /srv/data; echo; echo up; sleep 1000"], seed=load,
    ready=pc.wait.log("up"),
)
web = pc.container_fixture("host:", ["sleep", "1000"], scope="module")
broken = pc.container_fixture("host:", ["sh", "-c", "echo why >&2; exit 3"], ports=[80])


@pytest.mark.parametrize("text", [HOSTILE], ids=[HOSTILE])
def test_hostile(containers, text):
    script = 'printf "%s\\\\n" "$0"; printf "\\\\033[31mred\\\\033[0m \\\\342\\\\200\\\\256 turned\\\\n"; exit 7'
    assert containers.run("host:", ["sh", "-c", script, text], name="printer").wait(60) == 7


def test_uses_a_state(db, web):
    pass


def test_fails(web):
    assert web.status == "a state that it has not", HOSTILE


def test_cannot_start(broken):
    pass


@pytest.mark.skip(reason="not today")
def test_is_skipped():
    pass
"""


def lines_of(life: dict[str, Any]) -> list[str]:
    return [text for _, _, text in life["output"]["lines"]]


Suite = Callable[..., "subprocess.CompletedProcess[str]"]


def command(folder: Path, *arguments: str) -> list[str]:
    plugins = ["-p", "pytest_containers.plugin", "-p", "no:randomly", "-p", "no:cacheprovider"]
    options = [f"--containers-report={folder / 'report.html'}", f"--rootdir={folder}", *arguments]
    return [sys.executable, "-m", "pytest", *plugins, *options, str(folder)]


def environ(store: Path) -> dict[str, str]:
    """Return an environment in which only the plugins run that a command names."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {
        **kept, "PYTEST_CONTAINERS_HOME": str(store), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, store_home: Path) -> Path:
    """The directory of a suite that has run twice, with its page."""
    folder = tmp_path_factory.mktemp("reported")
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_suite.py").write_text(SUITE)
    for words in ("Initial", "Again"):
        (folder / "words").write_text(words)
        done = subprocess.run(
            command(folder), capture_output=True, text=True, env=environ(store_home), check=False
        )
        counts = pytest.RunResult.parse_summary_nouns(done.stdout.splitlines())
        expected = {"passed": 2, "skipped": 1, "failed": 1, "errors": 1}
        assert counts == expected, done.stdout
        assert "report of containers: " in done.stdout
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


def test_the_data(folder: Path) -> None:
    data = data_of(folder / "report.html")
    tests = {test["id"].partition("::")[2].partition("[")[0]: test for test in data["tests"]}
    assert {name: test["outcome"] for name, test in tests.items()} == {
        "test_hostile": "passed", "test_uses_a_state": "passed", "test_fails": "failed",
        "test_cannot_start": "error", "test_is_skipped": "skipped",
    }  # fmt: skip
    assert "a state that it has not" in tests["test_fails"]["message"]
    assert tests["test_is_skipped"]["message"] == "Skipped: not today"
    assert [phase[0] for phase in tests["test_fails"]["phases"]] == ["setup", "call", "teardown"]
    lives = {life["name"]: life for life in data["containers"]}
    assert sorted(lives) == ["broken", "db", "printer", "web"]
    assert lives["printer"]["exit_code"] == 7
    assert lines_of(lives["printer"]) == [HOSTILE, "red \u202e turned"]
    assert lines_of(lives["db"]) == ["seeded", "up"]
    assert lives["web"]["scope"] == "module"
    assert lines_of(lives["broken"]) == ["why"]
    assert lives["broken"]["error"].startswith("ExitedError: ")
    for name in ("db", "printer"):
        life = lives[name]
        assert life["test"].partition("::")[2].startswith("test_")
        times = [
            life[key] for key in ("asked_at", "started_at", "ready_at", "removed_at", "gone_at")
        ]
        assert times == sorted(times)
        assert data["run"]["began_at"] <= times[0] and times[-1] <= data["run"]["ended_at"]
    (state,) = data["states"]
    assert (state["reused"], state["label"]) == (True, "db")
    assert data["run"]["exit"] == "failed"


@pytest.mark.long
def test_the_reason_of_a_new_state(folder: Path, store_home: Path, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_suite.py").write_text(SUITE.replace('"seeded"', '"changed"'))
    arguments = command(tmp_path, "-k", "uses_a_state", "--containers-fresh")
    subprocess.run(arguments, env=environ(store_home), check=True, capture_output=True)
    (state,) = data_of(tmp_path / "report.html")["states"]
    assert (state["reused"], state["reason"]) == (False, "it is made for the first time")


def test_the_page_is_of_one_file_in_ascii(folder: Path) -> None:
    page = (folder / "report.html").read_bytes()
    page.decode("ascii")
    ours = re.sub(rb'id="data">.*?<', b'id="data"><', page, flags=re.DOTALL)
    assert re.findall(rb"(?:src|href)=[\"'](?!#)", ours) == []
    assert page.count(b"</script>") == 2
    assert HOSTILE.encode() not in page


@pytest.mark.needs("chromium")
class TestInBrowser:
    def test_shows_tests_and_their_containers(self, folder: Path, browser: Browser) -> None:
        browser.open(folder / "report.html")
        # innerText leaves out rows that were not yet, or need not be, drawn.
        text = browser.evaluate("document.querySelector('main').textContent")
        for words in ("test_uses_a_state", "printer", "exit code 7", "broken", "reused"):
            assert words in text
        summary = browser.evaluate("document.getElementById('summary').innerText")
        assert summary.startswith(
            "failed: 5 tests, 2 failed, 1 skipped, 4 containers, 1 state (1 reused)"
        )
        nested = """
            [...document.querySelectorAll('.row')].find(
              (row) => row.querySelector('.name').textContent.includes('test_uses_a_state')
            ).querySelector('ul').textContent
        """
        assert "db" in browser.evaluate(nested)
        assert browser.evaluate("document.querySelectorAll('.track i').length") > 15

    @pytest.mark.long
    def test_output_and_names_are_text(self, folder: Path, browser: Browser) -> None:
        browser.open(folder / "report.html")
        browser.evaluate("document.querySelectorAll('.bar').forEach((bar) => bar.click())")
        shown = browser.evaluate("document.querySelector('main').textContent")
        assert shown.count(HOSTILE) >= 3  # the name of a test, a message, a line of output
        assert "red <U+202E> turned" in shown
        assert browser.evaluate("document.querySelectorAll('img, svg, iframe').length") == 0
        assert browser.evaluate("new Promise((done) => setTimeout(() => done(1), 50))") == 1
        assert browser.dialogs == []
        assert browser.requests == [(folder / "report.html").as_uri()]
        assert browser.violations == []

    def test_the_policy_refuses_what_is_not_ours(self, folder: Path, browser: Browser) -> None:
        browser.open(folder / "report.html")
        browser.evaluate(
            "document.body.insertAdjacentHTML('beforeend',"
            " '<img src=https://example.com/x.png onerror=alert(1)>')"
        )
        browser.evaluate("new Promise((done) => setTimeout(() => done(1), 50))")
        assert browser.dialogs == []
        assert any("Content Security Policy" in violation for violation in browser.violations)

    def test_search(self, folder: Path, browser: Browser) -> None:
        browser.open(folder / "report.html")
        browser.press("/", *"seeded")
        assert browser.evaluate("document.activeElement.id") == "query"
        browser.press("Enter")
        rows = "[...document.querySelectorAll('.rows > .row:not([hidden])')].map((row) => row.textContent)"
        (row,) = browser.evaluate(rows)
        assert "test_uses_a_state" in row
        assert "1 matching line" in row
        assert browser.evaluate("document.activeElement.className") == "bar"
        browser.press("ArrowDown", "ArrowDown", "Enter")
        assert browser.evaluate("document.querySelector('.log mark').textContent") == "seeded"
        browser.press("/", "Escape")
        assert len(browser.evaluate(rows)) == 6
        assert browser.evaluate("document.querySelectorAll('mark').length") == 0

    def test_the_keyboard(self, folder: Path, browser: Browser) -> None:
        browser.open(folder / "report.html")
        label = "document.activeElement.getAttribute('aria-label')"
        labels = browser.evaluate(
            "[...document.querySelectorAll('.bar')].map((bar) => bar.getAttribute('aria-label'))"
        )
        assert all(re.search(r", from \+\d+\.\d+ s$", label) for label in labels)
        browser.press("ArrowDown")
        assert browser.evaluate(label) == labels[0]
        browser.press("ArrowDown", "ArrowDown", "ArrowUp")
        assert browser.evaluate(label) == labels[1]
        browser.press("End")
        assert browser.evaluate(label) == labels[-1]
        browser.press("Home", "ArrowRight")
        expanded = "document.activeElement.getAttribute('aria-expanded')"
        assert browser.evaluate(expanded) == "true"
        controlled = (
            "document.getElementById(document.activeElement.getAttribute('aria-controls')).hidden"
        )
        assert browser.evaluate(controlled) is False
        browser.press("ArrowLeft")
        assert browser.evaluate(expanded) == "false"
        browser.press("Tab")
        assert browser.evaluate(label) == labels[1]

    def test_only_failed_tests(self, folder: Path, browser: Browser) -> None:
        browser.open(folder / "report.html")
        browser.evaluate(
            "(() => { const show = document.getElementById('show'); show.value = 'failed';"
            " show.dispatchEvent(new Event('change')); })()"
        )
        names = browser.evaluate(
            "[...document.querySelectorAll('.rows > .row:not([hidden]) > .bar .name')].map((name) => name.textContent)"
        )
        assert sorted(re.findall(r"::(\w+)", " ".join(names))) == [
            "test_cannot_start",
            "test_fails",
        ]

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    def test_contrast(self, folder: Path, browser: Browser, dark: bool) -> None:
        """As WCAG 2.1 asks for: 4.5 for text, 3 for what is drawn."""
        browser.open(folder / "report.html", dark=dark)
        style = "getComputedStyle(document.documentElement).getPropertyValue"
        names = "ground panel ink faint good bad focus mark mark-ink test failed fixture image start wait ready end"
        colours = {
            name: browser.evaluate(f"{style.replace('.getPropertyValue', '')}.getPropertyValue('--{name}').trim()")
            for name in names.split()
        }  # fmt: skip
        for ground in ("ground", "panel"):
            for name in ("ink", "faint", "good", "bad", "focus"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
            for name in names.split()[9:]:
                assert contrast(colours[name], colours[ground]) >= 3, (name, ground)
        assert contrast(colours["mark-ink"], colours["mark"]) >= 4.5
        actual = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert actual == ("rgb(18, 23, 30)" if dark else "rgb(255, 255, 255)")

    def test_a_phone(self, folder: Path, browser: Browser) -> None:
        browser.open(folder / "report.html", width=360, height=640)
        browser.evaluate("document.querySelectorAll('.bar').forEach((bar) => bar.click())")
        assert browser.evaluate("document.documentElement.scrollWidth") <= 360
        tracks = "[...document.querySelectorAll('.track')].map((track) => track.getBoundingClientRect().width)"
        assert min(browser.evaluate(tracks)) > 250
        heights = "[...document.querySelectorAll('.bar')].map((bar) => bar.getBoundingClientRect().height)"
        assert min(browser.evaluate(heights)) >= 44  # of a finger


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours (WCAG 2.1)."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(factor * part for factor, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


WORKERS = """
import os
shared = pc.container_fixture("host:", ["sh", "-c", "echo shared; sleep 1000"], isolation="none")
@pytest.mark.parametrize("n", range(4))
def test_it(containers, shared, n):
    containers.run("host:", ["sh", "-c", f"echo line {n}"], name=f"c{n}").wait(60)
"""
CRASH = """
def test_crash(containers, shared):
    containers.run("host:", ["sleep", "100"], name="victim")
    os._exit(1)
"""


def workers_data(run: Any, pytester: pytest.Pytester, suite: str, *arguments: str) -> Any:
    pytest.importorskip("xdist")
    run(suite, *arguments, "--containers-report=out/report.html")
    data = data_of(pytester.path / "out" / "report.html")
    lives = {life["name"]: life for life in data["containers"]}
    assert len(lives) == len(data["containers"])
    for n in range(4):
        assert lines_of(lives[f"c{n}"]) == [f"line {n}"]
        assert lives[f"c{n}"]["worker"].startswith("gw")
    assert lives["shared"]["scope"] == "run"
    return data, lives


@pytest.mark.long
def test_workers_send_their_rows(run, pytester: pytest.Pytester) -> None:
    data, lives = workers_data(run, pytester, WORKERS, "-n2")
    assert lines_of(lives["shared"]) == ["shared"]
    assert [test["outcome"] for test in data["tests"]] == ["passed"] * 4


@pytest.mark.slow
@pytest.mark.long
def test_a_worker_that_crashes(run, pytester: pytest.Pytester) -> None:
    arguments = ("-n1", "--max-worker-restart=0")
    data, _ = workers_data(run, pytester, WORKERS + CRASH, *arguments)
    failed = {test["id"].partition("::")[2]: test for test in data["tests"][4:]}
    assert failed["test_crash"]["outcome"] == "failed"
    assert "crashed" in failed["test_crash"]["message"]


@pytest.mark.parametrize(
    "workers",
    [
        pytest.param([], id="plain"),
        pytest.param(["-p", "xdist", "-n1"], id="xdist", marks=pytest.mark.slow),
    ],
)
@pytest.mark.long
def test_a_run_that_is_interrupted(tmp_path: Path, store_home: Path, workers: list[str]) -> None:
    if workers:
        pytest.importorskip("xdist")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_suite.py").write_text("""
import os
import time
import pytest_containers as pc
def test_before(containers):
    containers.run("host:", ["echo", "earlier"], name="first").wait(60)
def test_it(containers):
    containers.run("host:", ["sh", "-c", "echo came so far; sleep 1000"], name="last",
                   ready=pc.wait.log("so far"))
    open("up", "w").close()
    while os.path.exists("up"):
        time.sleep(0.01)
""")
    process = subprocess.Popen(
        ["env", "--default-signal", *command(tmp_path, *workers)], env=environ(store_home), cwd=tmp_path,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 30
    while not (tmp_path / "up").exists() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    (tmp_path / "up").unlink(missing_ok=True)  # a worker would be given ten seconds
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2, output
    data = data_of(tmp_path / "report.html")
    assert data["run"]["exit"] == "interrupted"
    lives = {life["name"]: life for life in data["containers"]}
    assert lines_of(lives["first"]) == ["earlier"]
    if not workers:  # the test that a worker was in is lost with it
        assert lines_of(lives["last"]) == ["came so far"]


def test_a_module_that_cannot_be_imported(run, pytester: pytest.Pytester) -> None:
    result = run("raise ValueError('at import')", f"--containers-report={pytester.path / 'r.html'}")
    result.assert_outcomes(errors=1)
    (test,) = data_of(pytester.path / "r.html")["tests"]
    assert (test["id"], test["outcome"]) == ("test_a_module_that_cannot_be_imported.py", "error")
    assert "at import" in test["message"]


def test_a_file_that_cannot_be_written(run, pytester: pytest.Pytester) -> None:
    (pytester.path / "file").write_text("")
    result = run("def test_it(): pass", "--containers-report=file/report.html")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*report of containers: cannot write */file/report.html: *"])


def test_nothing_is_imported_or_kept_without_the_option(run) -> None:
    result = run(
        """
import sys
def test_it(containers, request):
    containers.run("host:", ["true"]).wait(60)
    assert not [name for name in sys.modules if name.startswith("pytest_containers.plugin.timeline")]
    assert request.config.pluginmanager.get_plugin("containers timeline") is None
"""
    )
    result.assert_outcomes(passed=1)


@pytest.mark.long
def test_builds_are_in_it(run, pytester: pytest.Pytester) -> None:
    (pytester.path / "Dockerfile").write_text("FROM host:\nRUN echo made > /srv/made\n")
    result = run(
        """
image = pc.build_fixture(".", tags=["reported:1"])
@pc.container_fixture
def made(image):
    return pc.ContainerSpec(image, ["cat", "/srv/made"])
def test_it(made): assert made.wait(60) == 0
""",
        f"--containers-report={pytester.path / 'report.html'}",
    )
    result.assert_outcomes(passed=1)
    data = data_of(pytester.path / "report.html")
    assert [(image["verb"], image["name"], image["error"]) for image in data["images"]] == [
        ("build", "reported:1", "")
    ]


def test_the_package_has_the_files_of_the_page() -> None:
    package = Path(pc.__file__).parent / "plugin" / "timeline"
    assert {"page.html", "page.css", "page.js"} <= {path.name for path in package.iterdir()}
