"""Options that have the meaning of a setting of the test run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from pytest_containers.model import engine_options as model_options
from pytest_containers.model import settings
from pytest_containers.model.engine_options import EngineOptions
from pytest_containers.model.settings import Setting, Settings

REGISTRIES = (settings.REGISTRY_MIRROR, settings.INSECURE_REGISTRY, settings.HUB_PREFIX)


def add_settings(parser: argparse.ArgumentParser, rows: Sequence[Setting]) -> None:
    """Add options for settings: ``--hub-prefix`` is ``--containers-hub-prefix`` in pytest."""
    group = parser.add_argument_group("settings (also in the environment: PYTEST_CONTAINERS_*)")
    for setting in rows:
        option = f"--{setting.name.replace('_', '-')}"
        group.add_argument(option, dest=setting.name, default=None, **setting.argument)


def engine_options(arguments: argparse.Namespace | None = None) -> EngineOptions:
    """Return the options of `create_engine` that command line and environment choose.

    Raises:
        SettingsError: A value is not usable.
    """
    chosen = settings_of(arguments, *REGISTRIES, settings.PULL, settings.BUILD_CACHE)
    options = model_options.engine_options(chosen)
    if options["sharing"] is not None:
        options["sharing"] = replace(options["sharing"], warn=_warn)
    return options


def _warn(message: str) -> None:
    print(f"pytest-containers: warning: {message}", file=sys.stderr)


def settings_of(arguments: argparse.Namespace | None, *rows: Setting) -> Settings:
    """Return the settings that command line and environment choose.

    Args:
        rows: The settings that the command may have as options.

    Raises:
        SettingsError: A value is not usable.
    """
    values = {} if arguments is None else vars(arguments)
    return Settings({row.name: values.get(row.name) for row in rows}, {}, prefix="--")
