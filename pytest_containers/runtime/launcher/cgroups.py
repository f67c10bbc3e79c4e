"""The cgroups of containers, made on the host's side: their files belong to the caller.

In each hierarchy that is needed::

    PARENT/pytest-containers-RUN        of the run, locked for as long as it lives
        supervisor                      version 2: processes may be in leaves only
        CONTAINER                       the limits
            inside                      where its root is the caller: the processes

A container with CAP_SYS_ADMIN, or with a user namespace of its own, may mount the hierarchy and
write to whatever belongs to its user there. It sees the cgroup of its processes, where its cgroup
namespace begins, and what is below. Where the caller has an id in containers, that is ``inside``,
and such a container can kill or freeze itself, but no other process, and it cannot reach its
limits. Elsewhere the files belong to nobody that it could become: it can change nothing, so one
cgroup is enough, and another container with the same limits can have it afterwards.

What joins: of version 1, the child itself, by a "0" to ``tasks``, whose descriptor carries our
right to do so. That moves a single thread, which needs no lock; to move a whole process, the kernel
waits some 10 ms (for the grace period of ``cgroup_threadgroup_rwsem``) unless another was moved
right before. Of version 2, clone3(2) with CLONE_INTO_CGROUP, which needs no lock either; for that
the supervisor has to be in the cgroup of the run.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from pytest_containers.linux import cgroups
from pytest_containers.linux.cgroups import Hierarchy
from pytest_containers.runtime.identity import Identity
from pytest_containers.runtime.launcher import janitor, scope
from pytest_containers.runtime.launcher.limits import (
    NAMED,
    Reset,
    controllers_of,
    names_of_version_2,
    open_resets,
    write_limits,
    write_memory_limit,
)
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.message import close_all
from pytest_containers.runtime.wire.operations.host import CgroupFiles

_RETRY_S, _RETRIES = 0.02, 250


class Run(NamedTuple):
    """The cgroup of a run in one hierarchy.

    Attributes:
        tree: The hierarchy.
        path: Its directory.
        entered: True if the supervisor is in it (version 2).
        enabled: The controllers that its children have (version 2).
    """

    tree: Hierarchy
    path: str
    entered: bool = False
    enabled: frozenset[str] = frozenset()


class Cgroups:
    """The cgroups of a run's containers.

    Args:
        loop: Tries again to remove what is still in use.
        pid: Of the supervisor, and its pidfd.
        identity: The run's map of ids.
        trees: The hierarchies, with the cgroups of the caller.
        max_memory_bytes: The memory that all containers may use together.
    """

    def __init__(
        self,
        loop: Loop,
        pid: int,
        pidfd: int,
        identity: Identity,
        trees: Sequence[Hierarchy],
        max_memory_bytes: int | None = None,
    ) -> None:
        self._loop = loop
        self._pid = pid
        self._pidfd = pidfd
        self._root_ids = (identity.uid_map[0][1], identity.gid_map[0][1])
        self._trees = trees
        self._max_memory_bytes = max_memory_bytes
        self._janitor: janitor.Janitor | None = None
        self._runs: dict[str, Run] = {}
        self._made: dict[str, list[str]] = {}
        self._exposed = exposed(identity, trees)
        self._apart = _trees_of_processors(trees, pid)
        self._writable_inside = identity.has_user(os.geteuid())

    async def make(
        self, key: str, resources: Mapping[str, Any], renew_namespace: Callable[[], Any]
    ) -> CgroupFiles:
        """Make the cgroups of a container.

        Args:
            key: Name of the container.
            resources: As in an OCI config.
            renew_namespace: Has the supervisor make a new cgroup namespace.

        Raises:
            FaultError: ``UnsupportedError``: there is no cgroup for a limit.
        """
        needed = controllers_of(resources)
        if self._max_memory_bytes is not None:
            needed.add("memory")
        names: list[str] = []
        files: list[int] = []
        resets: dict[str, Reset] = {}
        paths = self._made.setdefault(key, [])
        try:
            for tree, controllers in self._choose(needed):
                run = await self._run_of(tree, controllers, renew_namespace)
                leaf = os.path.join(run.path, key)
                os.mkdir(leaf)
                paths.append(leaf)
                write_limits(leaf, tree, controllers, resources)
                self._add_files(tree, leaf, files)
                names.append(",".join(sorted(tree.controllers)) if tree.version == 1 else "")
                if not self._writable_inside:
                    resets |= open_resets(leaf, tree, controllers, resources)
            return CgroupFiles(
                hierarchies=names,
                files=[*files, *(reset.fd for reset in resets.values())],
                resets={name: reset.value for name, reset in resets.items()},
                reusable=not self._writable_inside and "io" not in needed,
            )
        except BaseException as error:
            close_all(files)
            close_all([reset.fd for reset in resets.values()])
            self.remove(key)
            if isinstance(error, OSError):
                place = f"{error.filename}: " if error.filename else ""
                raise FaultError(
                    "StartError", f"make its cgroup: {place}{error.strerror}", errno=error.errno
                ) from None
            raise

    def _add_files(self, tree: Hierarchy, leaf: str, files: list[int]) -> None:
        """Make the cgroup of the processes, and open the files of `CgroupFiles`."""
        inside = leaf
        if self._writable_inside:
            inside = os.path.join(leaf, "inside")
            os.mkdir(inside)
        if tree.version == 2:
            procs = os.path.join(inside, "cgroup.procs")
            os.chown(procs, *self._root_ids)
            files.append(_open(leaf, os.O_RDONLY | os.O_DIRECTORY))
            files.append(_open(procs, os.O_WRONLY))
            files.append(_open(inside, os.O_RDONLY | os.O_DIRECTORY))
            return
        if "cpuset" in tree.controllers:  # no process may join before
            _copy_cpuset(os.path.dirname(leaf), leaf)
            if inside != leaf:
                _copy_cpuset(leaf, inside)
        # Of version 1, the kernel counts a process that is killed for memory here, not above.
        files.append(_open(inside, os.O_RDONLY | os.O_DIRECTORY))
        files.append(_open(os.path.join(inside, "tasks"), os.O_WRONLY))

    def remove(self, *keys: str) -> None:
        """Remove the cgroups of containers; unknown ones are gone already."""
        for key in keys:
            for leaf in self._made.pop(key, ()):
                self._remove(leaf, _RETRIES)

    def close(self) -> None:
        """Wait until nothing is left, after the end of the supervisor."""
        if self._janitor is not None:
            self._janitor.wait()

    # ------------------------------------------------------------- hierarchies

    def _choose(self, needed: set[str]) -> list[tuple[Hierarchy, set[str]]]:
        """Return the hierarchies that a container has a cgroup in, with the controllers needed.

        One with limits is also apart from others where the kernel shares out processors: so it
        gets as much as one of them, however many processes it has.
        """
        chosen = []
        missing = set(needed)
        for tree in self._trees:
            # Not all that version 2 has are handed down to the caller.
            controllers = missing & (
                names_of_version_2(tree.controllers)
                if tree.version == 1
                else _available(tree.mount)
            )
            missing -= controllers
            if controllers or tree in self._exposed or (needed and tree in self._apart):
                chosen.append((tree, controllers))
        if missing:
            raise _unsupported(missing, "no such controller is mounted here")
        return chosen

    async def _run_of(
        self, tree: Hierarchy, controllers: set[str], renew_namespace: Callable[[], Any]
    ) -> Run:
        run = self._runs.get(tree.mount)
        if tree.version == 1 or not controllers:
            return run or self._keep(self._new_run(tree, tree.path, controllers), controllers)
        if run is not None and controllers <= run.enabled:
            return run
        if run is None or not run.entered or not controllers <= _available(run.path):
            run = await self._enter(tree, controllers, renew_namespace)
        _enable(run.path, controllers)
        with suppress(OSError):  # as on version 1: see `_choose`
            _enable(run.path, {"cpu"} & _available(run.path))
        return self._keep(run._replace(enabled=run.enabled | controllers), controllers)

    def _keep(self, run: Run, controllers: set[str]) -> Run:
        """Have the next container use this cgroup too, which gets the limit of all containers."""
        self._runs[run.tree.mount] = run
        if "memory" in controllers and self._max_memory_bytes is not None:
            write_memory_limit(run.path, run.tree, self._max_memory_bytes)
        return run

    def _new_run(self, tree: Hierarchy, parent: str, controllers: set[str]) -> Run:
        """Make the cgroup of the run in a hierarchy, and have it removed at the end."""
        if self._janitor is None:
            self._janitor = janitor.Janitor(self._pidfd)
        try:
            path = self._janitor.make(parent)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            raise _unsupported(controllers, f"{parent} is not writable") from None
        if "cpuset" in tree.controllers and tree.version == 1:
            _copy_cpuset(parent, path)
        return Run(tree, path)

    async def _enter(
        self, tree: Hierarchy, controllers: set[str], renew_namespace: Callable[[], Any]
    ) -> Run:
        """Move the supervisor to a cgroup of the run whose children may have limits."""
        parent = tree.path if _may_have(tree.path, controllers) else None
        path = ""
        if parent is None:
            try:
                path = scope.move_to_scope(self._pid, tree, controllers)
            except FaultError:
                parent = _ancestor_for(tree, controllers)
                if parent is None:
                    lacking = controllers - _available(tree.path)
                    if lacking:
                        cause = f"{tree.path} was not handed the controller"
                        raise _unsupported(lacking, cause) from None
                    raise
        path = path or self._new_run(tree, parent or "", controllers).path
        os.chown(os.path.join(path, "cgroup.procs"), *self._root_ids)
        _write(path, "cgroup.procs", str(self._pid))
        # Its cgroup namespace has to begin here: clone3 refuses a cgroup outside of it where the
        # hierarchy is mounted with nsdelegate.
        await renew_namespace()
        own = os.path.join(path, "supervisor")
        os.mkdir(own)
        os.chown(os.path.join(own, "cgroup.procs"), *self._root_ids)
        _write(own, "cgroup.procs", str(self._pid))
        return Run(tree, path, entered=True)

    def _remove(self, leaf: str, retries: int) -> None:
        # With its children: where it may, a container makes cgroups of its own.
        if not janitor.remove_tree(leaf) and retries:  # its last process is still ending
            self._loop.call_later(_RETRY_S, lambda: self._remove(leaf, retries - 1))


def _trees_of_processors(trees: Sequence[Hierarchy], pid: int) -> list[Hierarchy]:
    """Return the hierarchies of version 1 that share out processors, if we may use them.

    A process with real-time priority may not be in such a cgroup that has no share of that.
    """
    if os.sched_getscheduler(pid) not in (os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE):
        return []
    return [
        tree
        for tree in trees
        if tree.version == 1
        and "cpu" in tree.controllers
        and "cpuset" not in tree.controllers
        and os.access(tree.path, os.W_OK)
    ]


def exposed(identity: Identity, trees: Sequence[Hierarchy]) -> list[Hierarchy]:
    """Return the hierarchies in which container root may write to the caller's own cgroup."""
    if identity.uid_map[0][1] != os.geteuid():
        return []
    return [tree for tree in trees if os.access(tree.path, os.W_OK)]


def _ancestor_for(tree: Hierarchy, controllers: set[str]) -> str | None:
    """Return the nearest cgroup above the caller's whose children may have limits, if it is ours.

    Whoever owns it may move processes there from his own cgroup (cgroups(7)). Where systemd runs
    it is asked first, since it likes to be the only one to change its slices.
    """
    folder = tree.path
    while folder != tree.mount:
        folder = os.path.dirname(folder)
        if not os.access(f"{folder}/cgroup.procs", os.W_OK):
            return None
        if _is_handed_down(folder, controllers):
            return folder
    return None


def _may_have(folder: str, controllers: set[str]) -> bool:
    """True if the children of the caller's own cgroup may have limits, which is tried."""
    return _is_handed_down(folder, controllers) or _may_enable(folder, controllers)


def _is_handed_down(folder: str, controllers: set[str]) -> bool:
    writable = os.access(folder, os.W_OK)
    return writable and controllers <= set(cgroups.read(folder, "cgroup.subtree_control").split())


def _may_enable(folder: str, controllers: set[str]) -> bool:
    """Enable controllers for the children of a cgroup, others of ours as well; False if refused."""
    if not controllers <= _available(folder):
        return False
    try:
        _enable(folder, set(NAMED) & _available(folder))
    except OSError:  # EBUSY: there are processes in it, and it is not the root
        return False
    return True


def _enable(folder: str, controllers: set[str]) -> None:
    missing = controllers - set(cgroups.read(folder, "cgroup.subtree_control").split())
    if missing:
        _write(folder, "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(missing)))


def _available(folder: str) -> set[str]:
    """Return the controllers that a cgroup of version 2 may have."""
    return set(cgroups.read(folder, "cgroup.controllers").split())


def _copy_cpuset(parent: str, path: str) -> None:
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not cgroups.read(path, name).strip():
            _write(path, name, cgroups.read(parent, name))


def _unsupported(controllers: set[str], cause: str) -> FaultError:
    names = ", ".join(NAMED[name] for name in sorted(controllers)) or "a cgroup"
    return FaultError(
        "UnsupportedError",
        f"{names}: {cause}; run the tests as root, or in a session of systemd that hands "
        "controllers down (`systemd-run --user --scope -p Delegate=yes pytest`), or leave it out",
    )


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC)


def _write(folder: str, name: str, value: str) -> None:
    with open(os.path.join(folder, name), "w") as file:
        file.write(value)
