"""A whole build: from a context and a Dockerfile to an image of the store."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from pytest_containers.builder.context import Context, read_patterns
from pytest_containers.builder.dockerfile import instructions as i
from pytest_containers.builder.dockerfile import parse
from pytest_containers.builder.dockerfile.instructions import Dockerfile
from pytest_containers.builder.evaluate import Evaluator
from pytest_containers.builder.executor import Executor
from pytest_containers.builder.filedigests import FileDigests
from pytest_containers.builder.options import PROXIES, with_epoch
from pytest_containers.builder.progress import Progress
from pytest_containers.builder.remote import Downloads
from pytest_containers.builder.result import StageResult, from_image, iso, scratch
from pytest_containers.builder.runtime import Runtime
from pytest_containers.builder.stages import BuildStage, Graph, is_native
from pytest_containers.images import manifest as manifests
from pytest_containers.images.derived import keep_built
from pytest_containers.images.image import Image, Layer
from pytest_containers.images.images import Images
from pytest_containers.images.reference import Reference, parse_reference
from pytest_containers.images.reference import parse as parse_source
from pytest_containers.model.build import EPOCH, BuildDisplay, BuildOptions
from pytest_containers.model.errors import BuildError, ContainersError, hide_frames

__tracebackhide__ = hide_frames

_NAMES = ("Dockerfile", "dockerfile", "Containerfile")


def build(
    images: Images,
    runtime: Runtime,
    folder: Path,
    dockerfile: Path | None,
    options: BuildOptions,
    *,
    tags: tuple[str, ...] = (),
    display: BuildDisplay | None = None,
) -> Image:
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
        problem = "is not a directory" if folder.exists() else "does not exist"
        raise BuildError(f"build of {folder}: the context {problem}", path=str(folder))
    if options.platform and not is_native(options.platform):
        raise BuildError(
            f"build for {options.platform}: this machine builds linux/{manifests.architecture()}; "
            "build it on such a machine"
        )
    ignore_files = [folder / ".dockerignore"]
    if options.dockerfile_text is None:
        path = dockerfile or _find(folder)
        parsed = parse(_read(path), _shown(path))
        ignore_files.insert(0, path.with_name(f"{path.name}.dockerignore"))
    else:
        parsed = parse(options.dockerfile_text)
    patterns, _ = read_patterns(ignore_files)
    digests = FileDigests(images.library.store, folder)
    context = Context(folder, patterns, digests)
    work = _Build(images, runtime, parsed, context, options, Progress(display or BuildDisplay()))
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
    """A build in progress.

    Attributes:
        downloads: What ADD has fetched.
    """

    def __init__(
        self,
        images: Images,
        runtime: Runtime,
        dockerfile: Dockerfile,
        context: Context,
        options: BuildOptions,
        progress: Progress,
    ) -> None:
        self._images = images
        self._library = images.library
        self._runtime = runtime
        self._dockerfile = dockerfile
        self._context = context
        self._options = options
        self._progress = progress
        self._graph = Graph(dockerfile, options)
        shared = None if images.shared is None else images.shared.steps
        self._executor = Executor(self._library, runtime, options, shared)
        self.downloads: Downloads = Downloads(images.library.store)
        self._done: dict[int, Future[StageResult]] = {}
        self._bases: dict[str, Image] = {}
        self._declared: set[str] = set()
        self._looking = threading.Lock()
        self._deciding = threading.Lock()

    def image(self, tags: tuple[str, ...]) -> Image:
        """Build the image and give it its names."""
        for warning in self._dockerfile.warnings:
            self._progress.warn(warning)
        result = self._target()
        for warning in self._unused_arguments():
            self._progress.warn(warning)
        if self._options.labels:
            labels = {**(result.config.get("Labels") or {}), **self._options.labels}
            result.config["Labels"] = labels
        if self._options.epoch is not None:
            result.document["created"] = iso(float(self._options.epoch))
        return self._finish(result, tags)

    def _unused_arguments(self) -> Iterator[str]:
        """Yield a warning for each build argument that no ARG declares, mostly a typo."""
        declared = self._declared | {
            name
            for instruction in self._dockerfile
            if isinstance(instruction, i.Arg)
            for name, _ in instruction.pairs
        }
        for name in self._options.args:
            if name in declared or name in (*PROXIES, EPOCH) or name in self._graph.globals:
                continue
            close = difflib.get_close_matches(name, declared, 1, 0.6)
            near = f"; did you mean {close[0]!r}?" if close else ""
            file = self._dockerfile.name
            yield f"{file}: no ARG declares the build argument {name!r}{near}"

    def _finish(self, result: StageResult, tags: tuple[str, ...]) -> Image:
        if not result.image.layers:
            raise BuildError(
                f"{self._dockerfile.name}: the image has no files at all; copy something into it"
            )
        with self._library.store.among_others():
            return keep_built(self._images, result.image, result.data, tags)

    # ------------------------------------------------------------------ stages

    def _target(self) -> StageResult:
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
                failed = [
                    future for future in futures if future.done() and future.exception() is not None
                ]
                if failed:
                    raise _first(failed)
            except BaseException:
                self._runtime.stop()
                raise
        return self._done[self._graph.target.index].result()

    def _when(self, ready: threading.Event, stage: BuildStage) -> StageResult:
        ready.wait()
        return self._evaluate(stage)

    def _order(self, stage: BuildStage, ordered: list[BuildStage]) -> list[BuildStage]:
        for needed in self._graph.needed_by(stage):
            if needed not in ordered:
                self._order(needed, ordered)
        if stage not in ordered:
            ordered.append(stage)
        return ordered

    def _evaluate(self, stage: BuildStage) -> StageResult:
        evaluator = Evaluator(
            self._graph,
            stage,
            self._begin(stage),
            options=self._options,
            executor=self._executor,
            context=self._context,
            other=partial(self._other, stage),
            downloads=self.downloads,
            progress=self._progress,
            escape=self._dockerfile.escape,
            failed=self._keep_failed,
        )
        try:
            return evaluator.evaluate()
        finally:
            self._declared |= evaluator.declared

    def _begin(self, stage: BuildStage) -> StageResult:
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
                source = parse_source(name)
                may_ask = isinstance(source, Reference) and not self._images.on_host.has(source)
                if self._options.pull and may_ask:
                    self._bases[name] = self._images.pull(name)
                else:
                    self._bases[name] = self._images.get(name)
            return self._bases[name]

    def _result(self, stage: BuildStage, asking: BuildStage) -> StageResult:
        """Return the result of a stage, evaluated now if it was not yet.

        Args:
            asking: The stage that needs it, possibly because of an inherited ONBUILD, which only
                showed up now.
        """
        with self._deciding:
            if stage is not asking.base:
                self._graph.need(asking, stage)
            begun = self._done.get(stage.index)
            future = self._done.setdefault(stage.index, begun or Future())
        if begun is None:
            try:
                future.set_result(self._evaluate(stage))
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result()

    def _other(self, asking: BuildStage, name: str) -> tuple[Image, str]:
        """Return the image that ``--from`` names, and how messages call it."""
        stage = self._graph.find(name)
        if stage is not None:
            return self._result(stage, asking).image, f"stage {stage.name}"
        if name.isascii() and name.isdecimal():
            count = len(self._graph.stages)
            raise BuildError(f"there is no stage {name}: there are {count}, numbered from 0")
        try:
            return self._base(name), f"image {name}"
        except ContainersError as error:
            names = [
                other.source.begin.name for other in self._graph.stages if other.source.begin.name
            ]
            close = difflib.get_close_matches(name.lower(), names, 1, 0.6)
            if not close:
                raise
            raise BuildError(f"{error.message} (did you mean the stage {close[0]!r}?)") from error

    def _keep_failed(self, result: StageResult, layer: Layer | None) -> str:
        failed = result.branch()
        if layer is not None:
            failed.add_layer(layer)
            failed.note("a failed step", failed.made_at, empty=False)
        name = self._options.keep_failed
        self._finish(failed, (name,))
        return f"Its files are kept: enter them with pytest-containers run -it {name} /bin/sh"


def _steps(stage: BuildStage) -> int:
    return 1 + sum(
        instruction.KEYWORD in ("RUN", "COPY", "ADD", "WORKDIR")
        for instruction in stage.source.instructions
    )


def _first(failed: list[Future[StageResult]]) -> BaseException:
    """Return the failure that is no consequence of another one."""
    errors = [error for future in failed if (error := future.exception()) is not None]
    return next((error for error in errors if isinstance(error, BuildError)), errors[0])
