"""Steps that make layers: done once, and found again by what went into them."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from pytest_containers.builder.context import Context, ContextEntry
from pytest_containers.builder.jobs import TAKE, WRITE
from pytest_containers.builder.progress import Shown
from pytest_containers.builder.result import StageResult
from pytest_containers.builder.runtime import BuildProgram, Runtime
from pytest_containers.images.image import Image, Layer
from pytest_containers.images.shared.steps import SharedSteps
from pytest_containers.images.store.build_steps import Steps
from pytest_containers.images.store.library import Library
from pytest_containers.model.build import BuildOptions
from pytest_containers.model.errors import BuildError, hide_frames
from pytest_containers.model.threads import starting_threads

__tracebackhide__ = hide_frames

_FORMAT = 1  # counts changes of what steps leave
_OWN_PLACES = ("/etc", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")

Feed = Callable[[int], None]
"""Writes contents to a pipe."""


class RunFailed(Exception):
    """The failure of a program of a RUN.

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
    """The executor of a build's steps; steps done before are looked up instead.

    Args:
        library: Keeps layers.
        runtime: Does the work.
        options: Of the build.
        shared: Steps of other machines; None if they are not shared.

    Attributes:
        single: Whether containers have no users but root.
    """

    def __init__(
        self,
        library: Library,
        runtime: Runtime,
        options: BuildOptions,
        shared: SharedSteps | None = None,
    ) -> None:
        self._shared = None if options.no_cache else shared
        self.library = library
        self.runtime = runtime
        self._options = options
        self._steps = Steps(library.store, library.layers)
        self.single: bool = library.layers.single

    def step(
        self, key: Mapping[str, Any], do: Callable[[ExitStack], tuple[Layer | None, str]]
    ) -> tuple[Layer | None, float, bool]:
        """Do a step, unless it was done before.

        Of processes that do it at the same time, one does it and the others wait.

        Args:
            key: All that decides what it leaves.
            do: Does it; gives the layer, and a second key under which an equal one may be known.
                Before it makes the layer, it puts on the stack what holds off pruning.

        Returns:
            Its layer, unless it changed nothing; when it was done; whether it had been.
        """
        digest = self.digest(key)
        earlier = None if self._options.no_cache else self._steps.find(digest)
        if earlier is not None:
            return earlier[1], earlier[0].made_at, True
        with self.library.store.lock(f"step-{digest[:40]}"):
            earlier = None if self._options.no_cache else self._steps.find(digest)
            if earlier is not None:
                return earlier[1], earlier[0].made_at, True
            # Files of a context are here already, and quicker copied than fetched.
            if self._shared is None or key.get("kind") != "run":
                return *self._do(digest, do), False
            shared = self._shared.obtain(digest)
            if shared is not None:
                return shared.layer, shared.made_at, True
            try:
                layer, made_at = self._do(digest, do)
            except BaseException:
                self._shared.give_up(digest)
                raise
            self._shared.offer(digest, layer)
            return layer, made_at, False

    def _do(
        self, digest: str, do: Callable[[ExitStack], tuple[Layer | None, str]]
    ) -> tuple[Layer | None, float]:
        """Do a step and record it; return its layer and when it was done."""
        with ExitStack() as others:
            layer, second = do(others)
            if second and not self._options.no_cache:
                equal = self._steps.find(second)
                layer = equal[1] if equal is not None else layer
            diff_id = layer.diff_id if layer is not None else ""
            if second:
                self._steps.enter(second, diff_id)
            return layer, self._steps.enter(digest, diff_id).made_at

    def digest(self, key: Mapping[str, Any]) -> str:
        """Return the digest of a key."""
        whole = {"format": _FORMAT, "epoch": self._options.epoch, **key}
        document = json.dumps(whole, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(document.encode()).hexdigest()

    # ----------------------------------------------------------------- programs

    def run(
        self,
        result: StageResult,
        program: BuildProgram,
        shown: Shown,
        others: ExitStack,
        *,
        keep: bool,
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
                raise RunFailed(code, None)
            others.enter_context(self.library.store.among_others())
            layer, _ = self.library.layers.write(
                lambda parent: process.freeze(parent, without, self._options.time_ns, result.image),
                "a step of a build",
            )
        if code:
            raise RunFailed(code, layer)
        return layer, ""

    # -------------------------------------------------------------------- files

    def write(
        self,
        result: StageResult,
        writing: Writing,
        second: str,
        others: ExitStack,
        shown: Shown | None = None,
    ) -> tuple[Layer | None, str]:
        """Write files.

        Args:
            shown: The step on the display, for notes to the user.
            second: For what is taken from an image: what decides about it but the image, so that
                equal files of another build of it are found again.

        Raises:
            BuildError: It cannot be done.
        """
        for item in writing.items:
            path = f"/{item['to']}"
            for mount in result.image.mounts:
                if f"{path}/".startswith(f"{mount.target}/"):
                    raise BuildError(
                        f"{path} is this machine's own, read-only, in an image of host:; choose "
                        "another place"
                    )
        base = result.image if result.image.layers else None
        views: list[Image] = [image for image in (base, writing.source) if image is not None]
        others.enter_context(self.library.store.among_others())
        job = WRITE if writing.source is None else TAKE
        with ExitStack() as stack:
            pipes = [stack.enter_context(_fed(feed)) for feed in writing.feeds]
            first_view = 1 + len(pipes)

            def view_index(image: Image | None) -> int | None:
                return None if image is None else first_view + views.index(image)

            args = {
                "base": None if writing.link else view_index(base),
                "users": view_index(base),
                "source": view_index(writing.source),
                "single": self.single,
                "owner": writing.owner,
                "chmod": writing.chmod,
                "time_ns": self._options.time_ns,
                "items": [
                    {**item, "fd": 1 + item["fd"]} if "fd" in item else item
                    for item in writing.items
                ],
            }
            layer, report = self.library.layers.write(
                lambda parent: self.runtime.call(
                    job, args, [parent, *(pipe.reader for pipe in pipes)], views
                ),
                "a step of a build",
            )
            for pipe in pipes:
                pipe.check()
        if report["note"] and shown is not None:
            shown.say(report["note"])
        if not second or layer is None:
            return layer, ""
        return layer, hashlib.sha256(f"{second}\n{report['content']}".encode()).hexdigest()


def _with_parents(paths: Sequence[str]) -> list[str]:
    folders: dict[str, None] = {}
    for path in paths:
        parts = [part for part in path.split("/") if part]
        for end in range(1, len(parts) + 1):
            folders["/" + "/".join(parts[:end])] = None
    return list(folders)


class _Pipe:
    """A pipe that a thread fills."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        try:
            self.reader, self._writer = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            raise BuildError(_cannot_send(error), errno=error.errno) from None
        try:
            with starting_threads():
                self.thread.start()
        except OSError as error:  # no thread has them
            os.close(self.reader)
            os.close(self._writer)
            raise BuildError(_cannot_send(error), errno=error.errno) from None

    def _run(self) -> None:
        try:
            self._feed(self._writer)
        except BrokenPipeError:
            pass  # the job has failed, and says why
        except OSError as error:
            self._error = BuildError(_cannot_send(error), errno=error.errno)
        except BaseException as error:  # noqa: BLE001 - raised by `check`
            self._error = error
        finally:
            os.close(self._writer)

    def check(self) -> None:
        if self._error is not None:
            raise self._error


def _cannot_send(error: OSError) -> str:
    return f"send files to a step: {error.strerror}"


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


def feed_files(context: Context | None, entries: Sequence[ContextEntry | bytes]) -> Feed:
    """Return a feed that sends files of a context, and documents, one after the other."""

    def feed(pipe: int) -> None:
        for entry in entries:
            if isinstance(entry, bytes):
                _send(pipe, entry)
                continue
            assert context is not None  # files are of one
            context.send(entry, pipe)

    return feed


def _send(pipe: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(pipe, rest) :]
