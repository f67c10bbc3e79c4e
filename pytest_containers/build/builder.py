"""A whole build: from a context and a Dockerfile to an image of the store."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from pytest_containers.build.context import Context, read_patterns
from pytest_containers.build.dockerfile import instructions as i
from pytest_containers.build.dockerfile import parse
from pytest_containers.build.dockerfile.instructions import Dockerfile
from pytest_containers.build.evaluate import Evaluator
from pytest_containers.build.executor import Executor
from pytest_containers.build.filedigests import FileDigests
from pytest_containers.build.options import EPOCH, PROXIES, BuildOptions, with_epoch
from pytest_containers.build.progress import Display, Progress
from pytest_containers.build.remote import Downloads
from pytest_containers.build.result import Result, from_image, iso, scratch
from pytest_containers.build.runtime import Runtime
from pytest_containers.build.stages import Graph, Stage, is_native
from pytest_containers.errors import BuildError, ContainersError, hide_frames
from pytest_containers.images import manifest as manifests
from pytest_containers.images.facade import Images
from pytest_containers.images.image import Image, Layer
from pytest_containers.images.reference import Reference, parse_reference
from pytest_containers.images.reference import parse as parse_source

__tracebackhide__ = hide_frames

_NAMES = ("Dockerfile", "Containerfile")


def build(
    images: Images, runtime: Runtime, folder: Path, dockerfile: Path | None,
    options: BuildOptions, *, tags: tuple[str, ...] = (), display: Display | None = None,
) -> Image:  # fmt: skip
    """Build an image.

    Args:
        folder: The context.
        dockerfile: None is ``Dockerfile`` or ``Containerfile`` of the context.
        tags: Names that it gets in the store.
        display: Shows how it goes.

    Raises:
        DockerfileError: The Dockerfile is not understood, or an instruction of it failed.
        BuildError: Something else that it needs is not there.
        ImageError: A base image cannot be had.
    """
    for tag in tags:
        parse_reference(tag)
    try:
        options = with_epoch(options)
    except ValueError as error:
        raise BuildError(f"build of {folder}: {error}") from None
    folder = folder.absolute()
    if not folder.is_dir():
        what = "is not a directory" if folder.exists() else "does not exist"
        raise BuildError(f"build of {folder}: the context {what}", path=str(folder))
    if options.platform and not is_native(options.platform):
        raise BuildError(
            f"build for {options.platform}: this machine builds linux/{manifests.architecture()}; "
            "build it on such a machine"
        )
    path = dockerfile or _find(folder)
    parsed = parse(_read(path), _shown(path))
    patterns, _ = read_patterns(
        [path.with_name(f"{path.name}.dockerignore"), folder / ".dockerignore"]
    )
    digests = FileDigests(images.store, folder)
    context = Context(folder, patterns, digests)
    work = _Build(images, runtime, parsed, context, options, Progress(display or Display()))
    try:
        return work.image(tags)
    finally:
        work.downloads.close()
        digests.save()


def _find(folder: Path) -> Path:
    for name in _NAMES:
        if (folder / name).is_file():
            return folder / name
    raise BuildError(
        f"build of {folder}: there is no Dockerfile in it; name it with -f or dockerfile=",
        path=str(folder),
    )


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise BuildError(f"build: {path}: {error.strerror}", path=str(path)) from None


def _shown(path: Path) -> str:
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


class _Build:
    """One build.

    Attributes:
        downloads: What ADD has fetched.
    """

    def __init__(
        self, images: Images, runtime: Runtime, dockerfile: Dockerfile, context: Context,
        options: BuildOptions, progress: Progress,
    ) -> None:  # fmt: skip
        self._images = images
        self._library = images.library
        self._runtime = runtime
        self._dockerfile = dockerfile
        self._context = context
        self._options = options
        self._progress = progress
        self._graph = Graph(dockerfile, options)
        self._executor = Executor(self._library, runtime, options)
        self.downloads: Downloads = Downloads(images.store)
        self._done: dict[int, Future[Result]] = {}
        self._bases: dict[str, Image] = {}
        self._declared: set[str] = set()
        self._looking = threading.Lock()
        self._deciding = threading.Lock()

    def image(self, tags: tuple[str, ...]) -> Image:
        """Build, and name what was built."""
        for text in self._dockerfile.warnings:
            self._progress.warn(text)
        result = self._target()
        for text in self._unused_arguments():
            self._progress.warn(text)
        if self._options.labels:
            labels = {**(result.config.get("Labels") or {}), **self._options.labels}
            result.config["Labels"] = labels
        if self._options.epoch is not None:
            result.document["created"] = iso(float(self._options.epoch))
        return self._finish(result, tags)

    def _unused_arguments(self) -> Iterator[str]:
        """What was given and is declared nowhere: a typo, mostly."""
        declared = self._declared | {
            name for one in self._dockerfile if isinstance(one, i.Arg) for name, _ in one.pairs
        }
        for name in self._options.args:
            if name in declared or name in (*PROXIES, EPOCH) or name in self._graph.globals:
                continue
            close = difflib.get_close_matches(name, declared, 1, 0.6)
            near = f"; did you mean {close[0]!r}?" if close else ""
            file = self._dockerfile.name
            yield f"{file}: no ARG declares the build argument {name!r}{near}"

    def _finish(self, result: Result, tags: tuple[str, ...]) -> Image:
        if not result.image.layers:
            raise BuildError(
                f"{self._dockerfile.name}: the image has no files at all; copy something into it"
            )
        with self._library.store.among_others():
            return self._images.keep_built(result.image, result.data, tags)

    # ------------------------------------------------------------------ stages

    def _target(self) -> Result:
        needed = self._order(self._graph.target, [])
        if len(needed) == 1:
            return self._evaluate(needed[0])
        # All at once: each waits for those that it needs, which stand before it.
        with ThreadPoolExecutor(len(needed), thread_name_prefix="pytest-containers build") as pool:
            ready = threading.Event()
            for stage in needed:
                self._done[stage.index] = pool.submit(self._when, ready, stage)
            futures = list(self._done.values())
            ready.set()
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                failed = [one for one in futures if one.done() and one.exception() is not None]
                if failed:
                    raise _first(failed)
            except BaseException:
                self._runtime.stop()
                raise
        return self._done[self._graph.target.index].result()

    def _when(self, ready: threading.Event, stage: Stage) -> Result:
        ready.wait()
        return self._evaluate(stage)

    def _order(self, stage: Stage, found: list[Stage]) -> list[Stage]:
        for one in self._graph.needed_by(stage):
            if one not in found:
                self._order(one, found)
        if stage not in found:
            found.append(stage)
        return found

    def _evaluate(self, stage: Stage) -> Result:
        evaluator = Evaluator(
            self._graph, stage, self._begin(stage), options=self._options,
            executor=self._executor, context=self._context, other=partial(self._other, stage),
            downloads=self.downloads, progress=self._progress, escape=self._dockerfile.escape,
            failed=self._keep_failed,
        )  # fmt: skip
        try:
            return evaluator.evaluate()
        finally:
            self._declared |= evaluator.declared

    def _begin(self, stage: Stage) -> Result:
        if stage.base is not None:
            return self._result(stage.base, stage).branch()
        if stage.image == "scratch":
            return scratch()
        begin = stage.source.begin
        shown = self._progress.step(f"[{stage.shown} 1/{_steps(stage)}] FROM {stage.image}")
        try:
            image = self._base(stage.image)
        except ContainersError as error:
            shown.failed(error.message)
            raise self._graph.error(begin, error.message) from error
        shown.done()
        return from_image(image, self._images.document(image))

    def _base(self, name: str) -> Image:
        with self._looking:
            if name not in self._bases:
                if self._options.pull and isinstance(parse_source(name), Reference):
                    self._bases[name] = self._images.pull(name)
                else:
                    self._bases[name] = self._images.get(name)
            return self._bases[name]

    def _result(self, stage: Stage, asking: Stage) -> Result:
        """What a stage became.

        Args:
            asking: Who needs it; maybe by an inherited ONBUILD, of which nobody knew before.
        """
        with self._deciding:
            if stage is not asking.base:
                self._graph.need(asking, stage)
            known = self._done.get(stage.index)
            future = self._done.setdefault(stage.index, known or Future())
        if known is None:
            try:
                future.set_result(self._evaluate(stage))
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result()

    def _other(self, asking: Stage, name: str) -> tuple[Image, str]:
        """What ``--from`` names."""
        stage = self._graph.find(name)
        if stage is not None:
            return self._result(stage, asking).image, f"stage {stage.name}"
        if name.isascii() and name.isdecimal():
            count = len(self._graph.stages)
            raise BuildError(f"there is no stage {name}: there are {count}, numbered from 0")
        try:
            return self._base(name), f"image {name}"
        except ContainersError as error:
            names = [one.source.begin.name for one in self._graph.stages if one.source.begin.name]
            close = difflib.get_close_matches(name.lower(), names, 1, 0.6)
            if not close:
                raise
            raise BuildError(f"{error.message} (did you mean the stage {close[0]!r}?)") from error

    def _keep_failed(self, result: Result, layer: Layer | None) -> str:
        failed = result.branch()
        if layer is not None:
            failed.add_layer(layer)
            failed.note("a failed step", failed.made_at, empty=False)
        name = self._options.keep_failed
        self._finish(failed, (name,))
        return f"Its files are kept: enter them with pytest-containers run -it {name} /bin/sh"


def _steps(stage: Stage) -> int:
    return 1 + sum(
        one.KEYWORD in ("RUN", "COPY", "ADD", "WORKDIR") for one in stage.source.instructions
    )


def _first(failed: list[Future[Result]]) -> BaseException:
    """The failure that was no consequence of another's."""
    errors = [error for one in failed if (error := one.exception()) is not None]
    return next((one for one in errors if isinstance(one, BuildError)), errors[0])
