"""A single run of the HEALTHCHECK of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_containers.model.errors import NotRunningError, StartError, WaitTimeoutError
from pytest_containers.model.reports import HealthReport, HealthStatus

if TYPE_CHECKING:
    from pytest_containers.model.engine import Container

_DEFAULT_TIMEOUT_S = 30.0  # as in Docker


def check(container: Container, age_s: float, timeout_s: float | None) -> HealthReport:
    """Run the check; see `Container.health`.

    Args:
        container: The container.
        age_s: How long it has been running, for the start period.
        timeout_s: The time limit; None is the one of the image.
    """
    healthcheck = container.image.config.healthcheck
    if healthcheck is None or healthcheck.test[:1] in ((), ("NONE",)):
        return HealthReport("none")
    command = healthcheck.command(container.image.config.shell)
    limit_s = timeout_s or healthcheck.timeout_s or _DEFAULT_TIMEOUT_S
    young = age_s < healthcheck.start_period_s
    failed: HealthStatus = "starting" if young else "unhealthy"
    try:
        result = container.exec(command, timeout_s=limit_s)
    except NotRunningError:
        return HealthReport("none")
    except WaitTimeoutError as error:
        return HealthReport(failed, None, error.message)
    except StartError as error:
        return HealthReport(failed, error.data.get("exit_code"), error.message)
    output = (result.stdout + result.stderr).decode(errors="replace")
    return HealthReport("healthy" if result.returncode == 0 else failed, result.returncode, output)
