"""The cgroups that a run has ready for its next containers."""

from __future__ import annotations

import json
import weakref
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import Any

from pytest_containers.runtime.supervisor.cgroup import Cgroup
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.loop import Batch, Loop
from pytest_containers.runtime.wire.operations import host
from pytest_containers.runtime.wire.peer import Peer
from pytest_containers.runtime.wire.tasks import Future, run_task

_KINDS, _OF_A_KIND = 4, 4
_MAKE_AFTER_S, _REMOVE_AFTER_S, _RENEW_AFTER_S = 0.003, 0.02, 0.002


class CgroupStock:
    """Cgroups for the limits that were used last: made ahead, or those of dead containers.

    A round trip to the launcher, and what the kernel takes to make and to remove them, are off the
    way then. Those of dead containers wait in a queue: it takes a moment until their memory is
    free. One that is not free when its turn comes is put back once, since files that the kernel has
    read may stay in its memory for long.

    Args:
        loop: Tells when there is time.
        launcher: Makes them.
    """

    def __init__(self, loop: Loop, launcher: Peer) -> None:
        self._loop = loop
        self._launcher = launcher
        self._count = 0
        self._ready: dict[str, deque[Cgroup]] = {}
        self._put_back: weakref.WeakSet[Cgroup] = weakref.WeakSet()
        self._making = False
        self._renewing = False
        self._taken: weakref.WeakSet[Cgroup] = weakref.WeakSet()
        self._removed: Batch[str] = Batch(loop, _REMOVE_AFTER_S, self._remove_all)

    async def take(self, resources: Mapping[str, Any]) -> Cgroup:
        """Take the cgroups for a container with these limits, ready or new.

        Raises:
            FaultError: There is none for one of the limits.
        """
        kind = _kind_of(resources)
        waiting = self._ready.pop(kind, None) or deque()
        self._ready[kind] = waiting  # the last in order: used last
        cgroup = self._next(waiting) or await self._make(resources)
        self._taken.add(cgroup)
        if not waiting and not self._making:
            self._making = True
            self._loop.call_at_leisure(_MAKE_AFTER_S, lambda: run_task(self._fill()))
        return cgroup

    def give_back(self, cgroup: Cgroup) -> None:
        """Take those of a container whose last process has ended; a second time is nothing."""
        key = cgroup.key
        if not key:
            return
        next_one = cgroup.retire()
        if next_one is None:
            self._removed.add(key)
            return
        if self._keep(next_one) and not self._renewing:
            self._renewing = True
            self._loop.call_at_leisure(_RENEW_AFTER_S, self._renew)

    def leave_namespace(self) -> None:
        """Let go of what is outside of the supervisor's new cgroup namespace."""
        for waiting in self._ready.values():
            while waiting:
                self._drop(waiting.popleft())
        for cgroup in self._taken:
            cgroup.leave_namespace()

    def _next(self, waiting: deque[Cgroup]) -> Cgroup | None:
        """Return the first that is as new."""
        for _ in range(len(waiting)):
            cgroup = waiting.popleft()
            if cgroup.is_ready or cgroup.renew():
                return cgroup
            if not cgroup.reusable or cgroup in self._put_back:
                self._drop(cgroup)
            else:
                self._put_back.add(cgroup)
                waiting.append(cgroup)
        return None

    def _renew(self) -> None:
        """Do ahead what `take` would have to do; what cannot be done yet, it does."""
        self._renewing = False
        for waiting in self._ready.values():
            for cgroup in waiting:
                if not cgroup.is_ready:
                    cgroup.renew()

    def _keep(self, cgroup: Cgroup) -> bool:
        """Have one wait for the next container, unless enough of its kind do."""
        waiting = self._ready.get(_kind_of(cgroup.resources))
        if waiting is None or len(waiting) >= _OF_A_KIND:
            self._drop(cgroup)
            return False
        waiting.append(cgroup)
        return True

    def _drop(self, cgroup: Cgroup) -> None:
        key = cgroup.key
        cgroup.close()
        self._removed.add(key)

    def _remove_all(self, keys: list[str]) -> None:
        self._launcher.request(host.RemoveCgroups(keys=keys))

    def _make(self, resources: Mapping[str, Any]) -> Coroutine[Future[Any], None, Cgroup]:
        self._count += 1
        return Cgroup.make(self._launcher, str(self._count), resources)

    async def _fill(self) -> None:
        try:
            while len(self._ready) > _KINDS:
                for cgroup in self._ready.pop(next(iter(self._ready))):
                    self._drop(cgroup)
            for kind, waiting in list(self._ready.items()):
                if not waiting:
                    cgroup = await self._make(json.loads(kind))
                    cgroup.renew()  # which opens what it reads
                    self._keep(cgroup)
        except FaultError:
            pass  # made ahead of need: whoever needs one is told
        finally:
            self._making = False


def _kind_of(resources: Mapping[str, Any]) -> str:
    return json.dumps(resources)
