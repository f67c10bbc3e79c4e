"""From a fresh process in new namespaces to a serving supervisor."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
from typing import Any

from pytest_containers.linux import process
from pytest_containers.linux.spawn import stub_available
from pytest_containers.runtime.channel import Channel
from pytest_containers.runtime.launcher.identity import Identity
from pytest_containers.runtime.loop import Loop
from pytest_containers.runtime.messages import refused
from pytest_containers.runtime.supervisor.root import RunRoot
from pytest_containers.runtime.supervisor.server import Server


def main(
    client: Channel,
    launcher: Channel,
    networks: Channel,
    controller_fd: int,
    identity: Identity,
    wanted: dict[str, Any],
) -> None:
    """Serve until the test process or the launcher is gone.

    Args:
        client: To the test process that started the run.
        launcher: To the launcher, which first says "go": the identity is there.
        networks: To the network helper.
        controller_fd: A pidfd of the test process.
        identity: What container ids are on the host.
        wanted: What the test process asked for (`launcher.main`).
    """
    launcher.receive()
    _become_root(identity)
    process.forget_keys()
    _raise_limits()
    os.umask(0)
    try:
        root = RunRoot.build(
            identity, force_fallback=wanted.get("force_fallback", False),
            host_network=wanted.get("network") == "host",
        )  # fmt: skip
    except OSError as error:
        client.send({"id": 0, "error": refused("mount the run's own file systems", error)})
        return
    runner = wanted.get("runner", "auto")
    if runner == "auto":
        runner = "stub" if stub_available() else "python"
    gc.collect()
    gc.freeze()
    loop = Loop()
    server = Server(loop, root, identity, runner, launcher, networks)
    server.add_controller(client, controller_fd)
    loop.run()
    # The exit of PID 1 takes all containers along; nothing is left to tidy.
    sys.stderr.flush()
    os._exit(0)


def _become_root(identity: Identity) -> None:
    if identity.mode != "single":
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    # Cleared by the change of credentials. The launcher cannot have died unnoticed: it has just
    # spoken, and the end of its channel ends the loop.
    process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
    # Nothing in a container may look into this process: exec's children start as copies of it.
    process.prctl(process.PR_SET_DUMPABLE, 0)


def _raise_limits() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
