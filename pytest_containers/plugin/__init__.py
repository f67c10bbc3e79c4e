"""The pytest plugin. pytest loads this package at every start, so it imports next to nothing."""

from __future__ import annotations

from pytest_containers.plugin.hooks import (
    class_containers,
    containers,
    module_containers,
    package_containers,
    pytest_addhooks,
    pytest_addoption,
    pytest_configure,
    pytest_configure_node,
    pytest_exception_interact,
    pytest_load_initial_conftests,
    pytest_report_header,
    pytest_runtest_call,
    pytest_runtest_makereport,
    pytest_runtest_protocol,
    pytest_runtest_setup,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
    pytest_unconfigure,
    session_containers,
)

__all__ = [
    "class_containers",
    "containers",
    "module_containers",
    "package_containers",
    "pytest_addhooks",
    "pytest_addoption",
    "pytest_configure",
    "pytest_configure_node",
    "pytest_report_header",
    "pytest_runtest_makereport",
    "pytest_unconfigure",
    "pytest_exception_interact",
    "pytest_load_initial_conftests",
    "pytest_runtest_call",
    "pytest_runtest_protocol",
    "pytest_runtest_setup",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "session_containers",
]
