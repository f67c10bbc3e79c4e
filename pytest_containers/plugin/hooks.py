"""The hooks of pytest and the built-in fixtures.

Modules that only containers need are imported when the first container is requested.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_containers.model import settings

if TYPE_CHECKING:
    from pytest_containers.model.engine import Engine
    from pytest_containers.plugin.journal import Journal
    from pytest_containers.plugin.manager import Manager
    from pytest_containers.plugin.scopes import Containers
    from pytest_containers.plugin.session_services import SessionServices
    from pytest_containers.plugin.timeline.recorder import TimelineRecorder

_manager_key: pytest.StashKey[Manager] = pytest.StashKey()
_broker_key: pytest.StashKey[Any] = pytest.StashKey()
_began_key: pytest.StashKey[float] = pytest.StashKey()
_states_key: pytest.StashKey[list[Any]] = pytest.StashKey()
_refused_key: pytest.StashKey[list[Any]] = pytest.StashKey()
_journals_key: pytest.StashKey[list[Any]] = pytest.StashKey()
"""The journals of workers of xdist, as simple values."""
_met_loss_key: pytest.StashKey[bool] = pytest.StashKey()
"""True for a test that has failed since its run was lost."""
_fault_key: pytest.StashKey[str] = pytest.StashKey()
"""Why no further test of this process may run."""
_services_key: pytest.StashKey[SessionServices] = pytest.StashKey()
_recorder_key: pytest.StashKey[TimelineRecorder] = pytest.StashKey()
_configs: list[pytest.Config] = []
"""The test runs of this process, of which the last is the inner one."""
_next_key: pytest.StashKey[pytest.Item | None] = pytest.StashKey()


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the hooks of the plugin."""
    from pytest_containers.plugin import newhooks

    pluginmanager.add_hookspecs(newhooks)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add ``--containers-*`` and ``containers_*``."""
    group = parser.getgroup("containers", "containers for tests")
    for setting in settings.ALL:
        if not setting.ini_only:
            group.addoption(setting.option, default=None, **setting.argument)
        kind: Literal["linelist", "string"] = "linelist" if setting.several else "string"
        parser.addini(setting.ini, setting.help_text, type=kind)
    config: Any = pluginmanager.get_plugin("pytestconfig")  # it has read the ini file
    if getattr(config, "known_args_namespace", None) and config.getini(settings.SERVICES.ini):
        from pytest_containers.plugin.startup import launch_ahead

        launch_ahead(config)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    """Reserve addresses and start session services before the code under test is imported."""
    _configs.append(early_config)
    early_config.add_cleanup(lambda: _end(early_config))
    # Here and not in pytest_configure, so that the page shows the start of session services.
    _record_timeline(
        early_config, getattr(early_config.known_args_namespace, settings.REPORT.ini, None)
    )
    lines = early_config.getini(settings.ENDPOINT.ini)
    if lines:
        from pytest_containers.model.errors import ContainersError
        from pytest_containers.services.endpoints import from_ini

        try:
            from_ini(lines)
        except ContainersError as error:
            raise pytest.UsageError(str(error)) from None
    lines = early_config.getini(settings.SERVICES.ini)
    if lines:
        session_services_of(early_config).start_lines(lines)
    try:
        return (yield)
    except Exception as error:
        services = early_config.stash.get(_services_key, None)
        failure = None if services is None else services.failure
        # The traceback of a conftest.py that could not be imported has nothing to add.
        if failure is None or getattr(error, "cause", None) is not failure.error:
            raise
        raise pytest.UsageError(failure.message) from None


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark, and check the values on the command line; nothing is started."""
    config.addinivalue_line(
        "markers",
        "containers_seed(fixture, seed, ...): add seeds to those of a fixture",
    )
    if any(config.getoption(setting.ini) is not None for setting in settings.OPTIONS):
        from pytest_containers.model.errors import SettingsError
        from pytest_containers.plugin.startup import settings_of

        try:
            settings_of(config)
        except SettingsError as error:
            raise pytest.UsageError(str(error)) from None
    _record_timeline(config, config.getoption(settings.REPORT.ini))


def _record_timeline(config: pytest.Config, option: str | None) -> None:
    """Record what the page of ``--containers-report`` shows, if there is to be one; idempotent."""
    setting = settings.REPORT
    if not (option or os.environ.get(setting.variable) or config.getini(setting.ini)):
        return
    from pytest_containers.plugin.displays import RECORDER
    from pytest_containers.plugin.startup import is_dormant, settings_of, worker_facts
    from pytest_containers.plugin.timeline.recorder import TimelineRecorder

    if config.pluginmanager.has_plugin(RECORDER) or is_dormant(config):
        return
    path = settings_of(config).get(setting)
    recorder = TimelineRecorder(path, str(worker_facts(config).get("workerid", "")))
    config.pluginmanager.register(recorder, RECORDER)
    config.stash[_recorder_key] = recorder


def pytest_report_header(config: pytest.Config) -> str | None:
    """Return the header line; nothing is started."""
    if config.get_verbosity() < 0:
        return None
    from pytest_containers.plugin.header import header_line

    return header_line(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the run, if there is one."""
    _end(config)


def _end(config: pytest.Config) -> None:
    """End the run; idempotent, since a run that never begins is not unconfigured."""
    if config in _configs:
        _configs.remove(config)
    endpoints = sys.modules.get("pytest_containers.services.endpoints")
    if endpoints is not None:
        endpoints.forget_run()
    broker = config.stash.get(_broker_key, None)
    if broker is not None:
        broker.close()
    manager = config.stash.get(_manager_key, None)
    if manager is not None:
        manager.close()
    if _services_key in config.stash or config.getini(settings.SERVICES.ini):
        from pytest_containers.engines.choose import end_begun_run

        end_begun_run()


def _facts_for_workers(config: pytest.Config) -> dict[str, Any]:
    """Return what workers of xdist need to know of the run: its address, and when it began."""
    broker = config.stash.get(_broker_key, None)
    if broker is None:
        from pytest_containers.engines.choose import share_run
        from pytest_containers.plugin.startup import settings_of

        chosen = settings_of(config)
        broker = config.stash[_broker_key] = share_run(
            lambda: _live_engine(config), chosen.get(settings.ENGINE), chosen.get(settings.HOME)
        )
    began = config.stash.setdefault(_began_key, time.time())
    return {"containers_broker": broker.address, "containers_began": began}


def _live_engine(config: pytest.Config) -> Engine:
    """Return the engine of the controller for its workers, with another run if one was lost."""
    _renew_if_lost(config, None)
    return manager_of(config).engine


def _renew_if_lost(config: pytest.Config, item: pytest.Item | None) -> None:
    manager = config.stash.get(_manager_key, None)
    if manager is not None and manager.loss() is not None:
        manager.renew(item)
        if _services_key in config.stash:
            fault = config.stash[_services_key].restart()
            if fault is not None:
                config.stash[_fault_key] = fault


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Tell workers of the run before they import anything: they inherit the environment."""
    from pytest_containers.plugin.startup import tell_workers

    config.add_cleanup(tell_workers(_facts_for_workers(config)))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Send the address of the run to a worker of xdist (in the controller)."""
    node.workerinput.update(_facts_for_workers(node.config))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect the outcomes of states from a worker of xdist (in the controller)."""
    output = getattr(node, "workeroutput", {})
    stash = node.config.stash
    stash.setdefault(_states_key, []).extend(output.get("containers_states", ()))
    stash.setdefault(_refused_key, []).extend(output.get("containers_refused", ()))
    if "containers_journal" in output:
        stash.setdefault(_journals_key, []).append(output["containers_journal"])


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Give back temporary files; in a worker, send outcomes to the controller."""
    manager = session.config.stash.get(_manager_key, None)
    if manager is not None and manager.ours:
        manager.finish()
    if manager is not None and hasattr(session.config, "workeroutput"):
        output = session.config.workeroutput
        output["containers_states"] = [list(outcome) for outcome in manager.outcomes]
        output["containers_journal"] = manager.journal.rows()
    used = "pytest_containers.services.endpoints" in sys.modules
    if used or _refused_key in session.config.stash:
        from pytest_containers.plugin.refusals import finish

        finish(session, manager, session.config.stash.setdefault(_refused_key, []))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """List containers and states with ``-v``: their times, and why a state was made."""
    manager = config.stash.get(_manager_key, None)
    reported = config.stash.get(_states_key, [])
    if config.get_verbosity() > 0 and (manager is not None or _journals_key in config.stash):
        from pytest_containers.plugin.journal import life_lines
        from pytest_containers.plugin.report import state_lines

        outcomes = [] if manager is None else manager.outcomes
        for title, lines in (
            ("containers", life_lines(journal_of(config).lives)),
            ("states of containers", state_lines(outcomes, reported)),
        ):
            if lines:
                terminalreporter.section(title)
                for line in lines:
                    terminalreporter.write_line(line)
    if manager is not None or _journals_key in config.stash:
        from pytest_containers.plugin.report import kept_lines, write_warnings

        write_warnings(terminalreporter, journal_of(config).warnings)
        kept = [life for life in journal_of(config).lives if life.kept]
        if kept:
            terminalreporter.section("kept containers")
            for line in kept_lines(kept, *_keep_limits(config)):
                terminalreporter.write_line(line)
    refused = config.stash.get(_refused_key, [])
    if refused:
        from pytest_containers.plugin.refusals import write_summary

        write_summary(terminalreporter, config, refused)


def _keep_limits(config: pytest.Config) -> tuple[int, str]:
    from pytest_containers.plugin.startup import settings_of

    chosen = settings_of(config)
    return chosen.get(settings.KEEP_LIMIT), f"{chosen.get(settings.KEEP_TIME) / 60:g} min"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Remember the next test, and replace a run that the test before has lost."""
    item.config.stash[_next_key] = nextitem
    _renew_if_lost(item.config, item)
    return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail for settings and marks that would have no effect."""
    fault = item.config.stash.get(_fault_key, None)
    if fault is not None:
        pytest.fail(fault, pytrace=False)
    if item.get_closest_marker("containers_seed") is not None:
        from pytest_containers.plugin.marks import check_marks

        try:
            check_marks(item)
        except pytest.UsageError as error:
            pytest.fail(str(error), pytrace=False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Start the containers of the next test while this one runs."""
    manager = item.config.stash.get(_manager_key, None)
    if manager is not None and manager.ours:
        manager.lookahead.prepare(item.config.stash.get(_next_key, None))
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Fail a test in which the run was lost, if nothing in it has met that."""
    yield
    manager = item.config.stash.get(_manager_key, None)
    loss = None if manager is None else manager.loss()
    if loss is not None and not item.stash.get(_met_loss_key, False):
        raise loss


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse an image for a name that nothing has."""
    config = session.config
    row = settings.IMAGE
    if not (config.getoption(row.ini) or config.getini(row.ini) or os.environ.get(row.variable)):
        return
    from pytest_containers.plugin.image_names import fault_in_names

    fault = fault_in_names(session)
    if fault is None:
        return
    if not hasattr(config, "workerinput"):
        raise pytest.UsageError(fault)
    config.stash[_fault_key] = fault  # a worker that ends would be an internal error of xdist


@pytest.hookimpl(tryfirst=True)
def pytest_exception_interact(node: Any, report: Any) -> None:
    """Explain refused connections during collection, and show containers to a debugger's user."""
    manager = node.config.stash.get(_manager_key, None)
    if manager is not None and node.config.getoption("usepdb") and isinstance(node, pytest.Item):
        from pytest_containers.plugin.report import show_to_debugger

        show_to_debugger(node, manager)
    if isinstance(report, pytest.CollectReport):
        from pytest_containers.plugin.report import explain_endpoints

        explain_endpoints(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note connections that were refused while a module was imported."""
    _note_refused(report)


def _note_refused(report: pytest.CollectReport | pytest.TestReport) -> None:
    endpoints = sys.modules.get("pytest_containers.services.endpoints")
    if endpoints is not None and not report.passed:
        skip = report.longrepr
        endpoints.note_refused(skip[2] if isinstance(skip, tuple) else report.longreprtext)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the state and output of the containers to the report of a failure."""
    manager = item.config.stash.get(_manager_key, None)
    excinfo = call.excinfo if _is_ours(call.excinfo) else None
    if excinfo is not None:
        from pytest_containers.plugin.report import explain_failure, leave_runners_out

        leave_runners_out(item, excinfo)
        if type(excinfo.value).__name__ == "RunLostError":
            item.stash[_met_loss_key] = True
    report = yield
    told = excinfo is not None and report.failed and not explain_failure(report, item, excinfo)
    if manager is not None and report.failed:
        from pytest_containers.plugin.report import add_sections, note_failure

        note_failure(item, manager)
        if not told:
            add_sections(report, item, manager)
    _note_refused(report)
    return report


def _is_ours(excinfo: pytest.ExceptionInfo[BaseException] | None) -> bool:
    errors = sys.modules.get("pytest_containers.model.errors")
    return excinfo is not None and errors is not None and _hide_frames(excinfo)


def manager_of(config: pytest.Config) -> Manager:
    """Return the manager of this process; make it at the first call."""
    manager = config.stash.get(_manager_key, None)
    if manager is None or not manager.ours:
        if not config.pluginmanager.is_registered(sys.modules[__package__]):
            from pytest_containers.model.errors import SpecError
            from pytest_containers.services.names import WITHOUT_PLUGIN

            raise SpecError(WITHOUT_PLUGIN)
        from pytest_containers.plugin.manager import Manager

        manager = config.stash[_manager_key] = Manager(config)
        recorder = config.stash.get(_recorder_key, None)
        if recorder is not None:
            recorder.watch(manager.journal)
    return manager


def journal_of(config: pytest.Config) -> Journal:
    """Return what happened to the containers of the run: of this process and of all workers."""
    from pytest_containers.plugin.journal import Journal

    manager = config.stash.get(_manager_key, None)
    journal = Journal()
    if manager is not None:
        journal.lives, journal.uses = [*manager.journal.lives], [*manager.journal.uses]
        journal.warnings = [*manager.journal.warnings]
    for rows in config.stash.get(_journals_key, []):
        journal.add_rows(rows)
    return journal


def session_services_of(config: pytest.Config) -> SessionServices:
    """Return the session services of this process."""
    services = config.stash.get(_services_key, None)
    if services is None:
        from pytest_containers.plugin.startup import begin_run

        begin_run(config)
        from pytest_containers.plugin.session_services import SessionServices

        services = config.stash[_services_key] = SessionServices(config, lambda: manager_of(config))
    return services


def current_config() -> pytest.Config | None:
    """Return the configuration of the test run that imports files now; None outside of runs."""
    return _configs[-1] if _configs else None


def _hide_frames(excinfo: Any) -> bool:
    from pytest_containers.model.errors import hide_frames

    return hide_frames(excinfo)


__tracebackhide__ = _hide_frames


def _scoped(request: pytest.FixtureRequest) -> Iterator[Containers]:
    with manager_of(request.config).containers(request.scope) as live:
        yield live


@pytest.fixture
def containers(request: pytest.FixtureRequest) -> Iterator[Containers]:
    """Start containers for one test: ``containers.run("host:", ["redis-server"], ports=[6379])``.

    They share a private network and are removed after the test.
    """
    yield from _scoped(request)


@pytest.fixture(scope="class")
def class_containers(request: pytest.FixtureRequest) -> Iterator[Containers]:
    """Start containers for a test class."""
    yield from _scoped(request)


@pytest.fixture(scope="module")
def module_containers(request: pytest.FixtureRequest) -> Iterator[Containers]:
    """Start containers for a test module."""
    yield from _scoped(request)


@pytest.fixture(scope="package")
def package_containers(request: pytest.FixtureRequest) -> Iterator[Containers]:
    """Start containers for a package of tests."""
    yield from _scoped(request)


@pytest.fixture(scope="session")
def session_containers(request: pytest.FixtureRequest) -> Iterator[Containers]:
    """Start containers for the session (each worker of xdist has its own session)."""
    yield from _scoped(request)
