"""The words of a wait for listening sockets that do not come."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_containers.runtime.wire.operations.containers import ContainerPort, Listening

_MOST_SHOWN = 10


def explain(answer: Listening, timeout_s: float) -> str:
    """Say which ports are missing, and where the program listens instead."""
    missing = f"nothing listens on {', '.join(map(_full, answer.missing))} after {timeout_s:.3g} s"
    if answer.elsewhere:
        addresses = " and ".join(answer.elsewhere)
        return (
            f"{missing} where others reach it: the program listens on {addresses} only; have it "
            "listen on 0.0.0.0"
        )
    if answer.open:
        verb, others = (
            "are" if len(ports) > 1 else "is" for ports in (answer.missing, answer.open)
        )
        return (
            f"{missing}: {_names(answer.missing)} {verb} not open, {_names(answer.open)} {others}"
        )
    return missing


def _names(ports: Sequence[ContainerPort]) -> str:
    shown = [
        str(port.number) if port.protocol == "tcp" else _full(port) for port in ports[:_MOST_SHOWN]
    ]
    if len(ports) > _MOST_SHOWN:
        shown.append(f"{len(ports) - _MOST_SHOWN} more")
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def _full(port: ContainerPort) -> str:
    return f"{port.number}/{port.protocol}"
