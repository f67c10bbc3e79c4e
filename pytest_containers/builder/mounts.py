"""``RUN --mount``: what is mounted, and what of it decides about the layer."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import posixpath
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from pytest_containers.builder.context import Context
from pytest_containers.builder.copies import Collected
from pytest_containers.builder.dockerfile import instructions as i
from pytest_containers.builder.dockerfile.expand import ExpansionError, is_number
from pytest_containers.builder.dockerfile.mounts import parse_mount
from pytest_containers.builder.executor import Executor
from pytest_containers.builder.jobs import TAKE, WRITE
from pytest_containers.builder.result import StageResult, scratch
from pytest_containers.builder.runtime import (
    FileMount,
    FolderMount,
    ImageMount,
    MemoryMount,
    SocketMount,
    StepMount,
)
from pytest_containers.images.image import Image
from pytest_containers.images.store.library import Library
from pytest_containers.images.store.store import storing
from pytest_containers.model.build import BuildOptions
from pytest_containers.model.errors import BuildError
from pytest_containers.model.sizes import parse_size

_PLACED = ("bind", "cache", "tmpfs")
"""Types of mounts that are at the working directory unless a target says otherwise."""
_SECRETS = "/run/secrets"
_CONTEXT = "/context"
_AGENT = "/run/buildkit/ssh_agent"
Expand = Callable[[str], str]


class Prepared(NamedTuple):
    """The mounts of one RUN.

    Attributes:
        mounts: As the runtime takes them; those of caches after `make`.
        env: Variables that secrets and agents set.
        facts: The part of the layer's key that describes the mounts: never a secret.
        secrets: What is not to be shown.
        later: Makes what is not needed if the step was done before.
    """

    mounts: list[StepMount]
    env: dict[str, str]
    facts: list[Any]
    secrets: list[bytes]
    later: list[Callable[[], None]]

    def make(self) -> None:
        """Make all that is mounted."""
        for action in self.later:
            action()


class Mounts:
    """The preparation of the mounts of RUN instructions.

    Args:
        other: Finds stages and images.
    """

    def __init__(
        self,
        executor: Executor,
        context: Context,
        other: Callable[[str], tuple[Image, str]],
        options: BuildOptions,
    ) -> None:
        self._executor = executor
        self._context = context
        self._other = other
        self._options = options

    def prepare(self, run: i.Run, expand: Expand, workdir: str, stack: ExitStack) -> Prepared:
        """Return the mounts of a RUN.

        Args:
            workdir: Where targets begin that are not absolute.
            stack: Ends what lasts as long as the RUN.

        Raises:
            BuildError: Something is not there.
        """
        prepared = Prepared([], {}, [], [], [])
        agents = 0
        for written in run.mounts:
            mount = _expanded(written, expand)
            target = mount.target
            if target or mount.type in _PLACED:
                target = posixpath.normpath(posixpath.join(workdir, target))
            if target == "/" and mount.type in _PLACED:
                raise BuildError(
                    f"--mount={mount.option}: nothing can be mounted over the root; write a "
                    "target=, or a WORKDIR before"
                )
            if mount.type == "bind":
                self._bind(mount, target, prepared)
            elif mount.type == "cache":
                self._cache(mount, target, prepared, stack)
            elif mount.type == "tmpfs":
                prepared.mounts.append(MemoryMount(target, _size(mount.size)))
                prepared.facts.append(["tmpfs", target, mount.size])
            elif mount.type == "secret":
                self._secret(mount, target, prepared)
            else:
                self._ssh(mount, target, prepared, agents)
                agents += 1
        return prepared

    def _bind(self, mount: i.Mount, target: str, prepared: Prepared) -> None:
        source = posixpath.normpath("/" + (mount.source or "/"))
        read_only = mount.read_only is not False
        if mount.from_:
            image, _ = self._other(mount.from_)
            facts = StageResult(image, {}).chain
            prepared.mounts.append(ImageMount(target, image, source, read_only))
        else:
            image, facts, inner = self._of_context(source)
            prepared.mounts.append(ImageMount(target, image, inner, read_only))
        prepared.facts.append(["bind", target, source, read_only, facts])

    def _of_context(self, source: str) -> tuple[Image, str, str]:
        """Return a part of the context as an image, without what .dockerignore excludes."""
        instruction = i.Copy(
            line=0,
            end_line=0,
            text="",
            sources=(source.lstrip("/") or ".",),
            destination=f"{_CONTEXT}/",
        )
        collected = Collected("/", instruction, lambda word: word)
        for selected in self._context.select(source.lstrip("/") or "."):
            collected.add_selected(self._context, selected)
        name = (
            "" if not collected.items or collected.items[0]["top"] else collected.items[0]["name"]
        )
        empty = scratch()
        key = {**collected.key, "kind": "files", "chain": ""}
        # An image needs a layer, also where nothing is selected.
        folder = {"kind": "folder", "to": _CONTEXT.lstrip("/")}
        writing = collected.writing()
        layer, _, _ = self._executor.step(
            {**key, "kind": "context"},
            lambda others: self._executor.write(
                empty, writing._replace(items=[folder, *writing.items]), "", others
            ),
        )
        assert layer is not None
        empty.add_layer(layer)
        return empty.image, empty.chain, f"{_CONTEXT}/{name}"

    def _cache(self, mount: i.Mount, target: str, prepared: Prepared, stack: ExitStack) -> None:
        name = mount.id or target
        mode, uid, gid = _octal(mount.mode, 0o755), *_ids(mount)
        image = self._other(mount.from_)[0] if mount.from_ else None
        source = mount.source
        prepared.facts.append(["cache", target, name, mount.read_only is True])
        library = self._executor.library
        settings = json.dumps([name, mode, uid, gid, mount.from_, source])
        key = hashlib.sha256(settings.encode()).hexdigest()[:40]

        def make() -> None:
            number = 0
            while True:
                path = _cache_path(library, f"{key}-{number}" if number else key)
                lock = library.store.lock(f"cache-{path.parent.name[:60]}-{path.name}")
                if mount.sharing == "locked":
                    stack.enter_context(lock)
                elif mount.sharing == "private" and not _try(lock, stack):
                    number += 1
                    continue
                break
            while not _hold(path, stack):
                self._make_cache(path, mode, uid, gid, image, source)
            tree = path / "tree"
            os.utime(path)
            prepared.mounts.append(FolderMount(target, tree, mount.read_only is True))

        prepared.later.append(make)

    def _make_cache(
        self, path: Path, mode: int, uid: int, gid: int, image: Image | None, source: str
    ) -> None:
        library = self._executor.library
        if (path / "tree").is_dir():
            return
        with library.store.lock(f"caches-{path.name}"):
            if (path / "tree").is_dir():
                return
            items: list[dict[str, Any]] = []
            if image is not None:
                items.append(
                    {
                        "kind": "take",
                        "to": "",
                        "into": True,
                        "from": [source or "."],
                        "what": image.name,
                        "exclude": [],
                        "parents": False,
                    }
                )
            args = {
                "base": None,
                "users": None,
                "source": 1 if image is not None else None,
                "owner": "",
                "chmod": "",
                "time_ns": None,
                "items": items,
                "single": self._executor.single,
                "root": [mode, uid, gid],
            }
            views = [image] if image is not None else []
            with (
                storing("a cache of a build", library.store.home),
                library.store.temp_dir() as temp,
            ):
                temp.removed_by = library.layers.remove_inside
                temp.path.chmod(0o777)
                job = TAKE if views else WRITE
                self._executor.runtime.call(job, args, [temp.fd], views)
                temp.path.chmod(0o700)
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                temp.commit(path)

    def _secret(self, mount: i.Mount, target: str, prepared: Prepared) -> None:
        name = mount.id or posixpath.basename(mount.source or target)
        env = mount.env
        target = target or ("" if env else f"{_SECRETS}/{name}")
        prepared.facts.append(["secret", name, target, env])
        secret = self._options.secrets.get(name)
        if secret is None:
            if mount.required:
                raise BuildError(
                    f"the secret {name!r} was not given: add --secret id={name},src=FILE or "
                    f"secrets={{{name!r}: …}}"
                )
            return
        try:
            data = secret if isinstance(secret, bytes) else secret.read_bytes()
        except OSError as error:
            raise BuildError(f"the secret {name!r}: {secret!s}: {error.strerror}") from None
        prepared.secrets.append(data)
        if env:
            prepared.env[env] = data.decode(errors="surrogateescape")
        if target:
            uid, gid = _ids(mount)
            mode = _octal(mount.mode, 0o400)
            prepared.mounts.append(FileMount(target, data, mode, uid, gid))

    def _ssh(self, mount: i.Mount, target: str, prepared: Prepared, number: int) -> None:
        name = mount.id or "default"
        target = target or f"{_AGENT}.{number}"
        prepared.facts.append(["ssh", name, target])
        socket = self._options.ssh.get(name)
        if socket is None:
            if mount.required:
                raise BuildError(
                    f"no agent {name!r} was given: add --ssh {name}[=SOCKET] or ssh={{{name!r}: …}}"
                )
            return
        prepared.env.setdefault("SSH_AUTH_SOCK", target)
        prepared.mounts.append(SocketMount(target, socket))


def _expanded(mount: i.Mount, expand: Expand) -> i.Mount:
    try:
        return parse_mount(mount.option, expand)
    except ExpansionError:
        raise
    except ValueError as error:
        raise BuildError(f"--mount={mount.option}: {error}") from None


def _cache_path(library: Library, name: str) -> Path:
    return library.store.home / "caches" / library.layers.inside.id_map_class / name


def _hold(path: Path, stack: ExitStack) -> bool:
    """Keep a cache from being pruned; False if it is not there, or was removed this moment."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    fcntl.flock(fd, fcntl.LOCK_SH)
    try:
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            stack.callback(os.close, fd)
            return True
    except FileNotFoundError:
        pass
    os.close(fd)
    return False


def _try(lock: Any, stack: ExitStack) -> bool:
    from filelock import Timeout

    try:
        stack.enter_context(lock.acquire(timeout=0))
    except Timeout:
        return False
    return True


def _ids(mount: i.Mount) -> tuple[int, int]:
    ids = []
    for name, value in (("uid", mount.uid), ("gid", mount.gid)):
        if value and not is_number(value):
            raise BuildError(f"--mount: {name}={value}: expected a number")
        ids.append(int(value or 0))
    return ids[0], ids[1]


def _octal(mode: str, default: int) -> int:
    if not mode:
        return default
    if re.fullmatch("[0-7]{1,5}", mode) is None:
        raise BuildError(f"--mount: mode={mode}: expected an octal number")
    return int(mode, 8) & 0o7777


def _size(size: str) -> int | None:
    try:
        return parse_size(size) if size else None
    except ValueError as error:
        raise BuildError(f"--mount: size: {error}") from None
