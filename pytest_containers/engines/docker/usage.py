"""The figures of what a container uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_containers.model.reports import Stats

_UNLIMITED_BYTES = 1 << 60


def stats_of(facts: Mapping[str, Any]) -> Stats:
    """Return the figures of ``GET /containers/ID/stats``."""
    memory, pids = facts.get("memory_stats") or {}, facts.get("pids_stats") or {}
    networks = (facts.get("networks") or {}).values()
    disks = (facts.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    limit = memory.get("limit")
    inactive = (memory.get("stats") or {}).get("total_inactive_file") or 0

    def on_disks(operation: str) -> int:
        return sum(disk["value"] for disk in disks if disk["op"].lower() == operation)

    return Stats(
        cpu_s=(facts.get("cpu_stats") or {}).get("cpu_usage", {}).get("total_usage", 0) / 1e9,
        memory_bytes=max((memory.get("usage") or 0) - inactive, 0),
        memory_peak_bytes=memory.get("max_usage"),
        memory_limit_bytes=limit if limit and limit < _UNLIMITED_BYTES else None,
        pids=pids.get("current") or 0,
        pids_limit=pids.get("limit") if (pids.get("limit") or 0) < 1 << 31 else None,
        read_bytes=on_disks("read"),
        written_bytes=on_disks("write"),
        received_bytes=sum(network.get("rx_bytes", 0) for network in networks),
        sent_bytes=sum(network.get("tx_bytes", 0) for network in networks),
    )
