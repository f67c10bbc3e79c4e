"""Steps that make layers: done once, and found again by what went into them."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from pytest_containers.build.context import Context, Entry
from pytest_containers.build.options import BuildOptions
from pytest_containers.build.progress import Shown
from pytest_containers.build.result import Result
from pytest_containers.build.runtime import Program, Runtime
from pytest_containers.errors import BuildError, hide_frames
from pytest_containers.images.image import Image, Layer
from pytest_containers.images.library import Library
from pytest_containers.images.steps import Steps

__tracebackhide__ = hide_frames

WRITE = "pytest_containers.build.inside.write:write_layer"
TAKE = "pytest_containers.build.inside.take:write_layer"
_FORMAT = 1  # counts changes of what steps leave
_OWN_PLACES = ("/etc", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")

Feed = Callable[[int], None]
"""Writes contents to a pipe."""


class Exited(Exception):
    """A program of a RUN failed.

    Attributes:
        code: Its exit code.
        kept: The layer that it left, where it was asked for.
    """

    def __init__(self, code: int, kept: Layer | None) -> None:
        super().__init__(code)
        self.code = code
        self.kept = kept


class Writing(NamedTuple):
    """Files to be written on top of an image.

    Attributes:
        items: For the job (`inside.write`); ``fd`` is the place in `feeds`.
        feeds: What comes through pipes.
        owner, chmod: Of ``--chown`` and ``--chmod``.
        link: Whether the layer needs nothing of those below.
        source: The image that is taken from.
    """

    items: list[dict[str, Any]]
    feeds: Sequence[Feed] = ()
    owner: str = ""
    chmod: str = ""
    link: bool = False
    source: Image | None = None


class Executor:
    """Does steps, or finds that they were done.

    Args:
        library: Keeps layers.
        runtime: Does the work.
        options: Of the build.

    Attributes:
        single: Whether containers have no users but root.
    """

    def __init__(self, library: Library, runtime: Runtime, options: BuildOptions) -> None:
        self.library = library
        self.runtime = runtime
        self._options = options
        self._steps = Steps(library.store, library.layers)
        self.single: bool = library.layers.inside.id_map_class.startswith("single")

    def step(
        self, key: Mapping[str, Any], do: Callable[[ExitStack], tuple[Layer | None, str]]
    ) -> tuple[Layer | None, float, bool]:
        """Do a step, unless it was done.

        However many processes ask at once, one does it and the others wait for it.

        Args:
            key: All that decides what it leaves.
            do: Does it; gives the layer, and a second key under which an equal one may be known.
                It puts on the stack that nobody prunes, before it makes the layer.

        Returns:
            Its layer, unless it changed nothing; when it was done; whether it had been.
        """
        digest = self.digest(key)
        found = None if self._options.no_cache else self._steps.find(digest)
        if found is not None:
            return found[1], found[0].made_at, True
        with self.library.store.lock(f"step-{digest[:40]}"):
            found = None if self._options.no_cache else self._steps.find(digest)
            if found is not None:
                return found[1], found[0].made_at, True
            with ExitStack() as others:
                layer, second = do(others)
                if second and not self._options.no_cache:
                    known = self._steps.find(second)
                    layer = known[1] if known is not None else layer
                diff_id = layer.diff_id if layer is not None else ""
                if second:
                    self._steps.enter(second, diff_id)
                return layer, self._steps.enter(digest, diff_id).made_at, False

    def digest(self, key: Mapping[str, Any]) -> str:
        """A key as text."""
        whole = {"format": _FORMAT, "epoch": self._options.epoch, **key}
        text = json.dumps(whole, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    # ----------------------------------------------------------------- programs

    def run(
        self, result: Result, program: Program, shown: Shown, others: ExitStack, *, keep: bool
    ) -> tuple[Layer | None, str]:
        """Run a program and keep what it wrote.

        Args:
            keep: Whether a failed one's files are wanted as well.

        Raises:
            Exited: It failed.
        """
        without = _with_parents([*_OWN_PLACES, *(mount.target for mount in program.mounts)])
        with self.runtime.start(result.image, program) as process:
            for data in process.output():
                shown.write(data)
            code = process.wait()
            if code and not keep:
                raise Exited(code, None)
            others.enter_context(self.library.store.among_others())
            layer, _ = self.library.layers.write(
                lambda parent: process.freeze(parent, without, self._options.time_ns, result.image),
                "a step of a build",
            )
        if code:
            raise Exited(code, layer)
        return layer, ""

    # -------------------------------------------------------------------- files

    def write(
        self, result: Result, writing: Writing, second: str, others: ExitStack
    ) -> tuple[Layer | None, str]:
        """Write files.

        Args:
            second: For what is taken from an image: what decides about it but the image, so that
                equal files of another build of it are found again.

        Raises:
            BuildError: It cannot be done.
        """
        for item in writing.items:
            path = f"/{item['to']}"
            for shown in result.image.mounts:
                if f"{path}/".startswith(f"{shown.target}/"):
                    raise BuildError(
                        f"{path} is this machine's own, read-only, in an image of host:; choose "
                        "another place"
                    )
        base = result.image if result.image.layers else None
        views: list[Image] = [one for one in (base, writing.source) if one is not None]
        others.enter_context(self.library.store.among_others())
        function = WRITE if writing.source is None else TAKE
        with ExitStack() as stack:
            pipes = [stack.enter_context(_fed(feed)) for feed in writing.feeds]
            first_view = 1 + len(pipes)

            def at(image: Image | None) -> int | None:
                return None if image is None else first_view + views.index(image)

            args = {
                "base": None if writing.link else at(base), "users": at(base),
                "source": at(writing.source), "single": self.single,
                "owner": writing.owner, "chmod": writing.chmod,
                "time_ns": self._options.time_ns,
                "items": [
                    {**item, "fd": 1 + item["fd"]} if "fd" in item else item
                    for item in writing.items
                ],
            }  # fmt: skip
            layer, made = self.library.layers.write(
                lambda parent: self.runtime.call(
                    function, args, [parent, *(pipe.reader for pipe in pipes)], views
                ),
                "a step of a build",
            )
            for pipe in pipes:
                pipe.check()
        if not second or layer is None:
            return layer, ""
        return layer, hashlib.sha256(f"{second}\n{made['content']}".encode()).hexdigest()


def _with_parents(paths: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for path in paths:
        parts = [part for part in path.split("/") if part]
        for end in range(1, len(parts) + 1):
            found["/" + "/".join(parts[:end])] = None
    return list(found)


class _Pipe:
    """A pipe that a thread fills."""

    def __init__(self, feed: Feed) -> None:
        self.reader, self._writer = os.pipe2(os.O_CLOEXEC)
        self._feed = feed
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._feed(self._writer)
        except BrokenPipeError:
            pass  # the job has failed, and says why
        except BaseException as error:  # noqa: BLE001 - raised by `check`
            self._error = error
        finally:
            os.close(self._writer)

    def check(self) -> None:
        if self._error is not None:
            raise self._error


@contextmanager
def _fed(feed: Feed) -> Iterator[_Pipe]:
    pipe = _Pipe(feed)
    try:
        yield pipe
    except BuildError:
        os.close(pipe.reader)
        pipe.reader = -1
        pipe.thread.join()
        pipe.check()  # what could not be sent says more than that it did not come
        raise
    finally:
        if pipe.reader >= 0:
            os.close(pipe.reader)
        pipe.thread.join()


def feed_files(context: Context | None, entries: Sequence[Entry | bytes]) -> Feed:
    """Sends files of a context, and texts, one after the other."""

    def feed(pipe: int) -> None:
        for entry in entries:
            if isinstance(entry, bytes):
                _send(pipe, entry)
                continue
            assert context is not None  # files are of one
            fd = context.open(entry)
            try:
                _send_file(pipe, fd, entry.size_bytes)
                context.check(entry, fd)
            finally:
                os.close(fd)

    return feed


def _send_file(pipe: int, fd: int, size: int) -> None:
    left = size
    while left:
        moved = os.splice(fd, pipe, left)
        if not moved:
            return  # it became shorter; whoever checks it says so
        left -= moved


def _send(pipe: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(pipe, rest) :]
