"""Which stages a build needs, and what each needs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pytest_containers.builder.dockerfile import instructions as i
from pytest_containers.builder.dockerfile.errors import DockerfileError, at_line
from pytest_containers.builder.dockerfile.expand import ExpansionError, expand_word, is_number
from pytest_containers.builder.dockerfile.instructions import Dockerfile, Instruction
from pytest_containers.builder.dockerfile.places import expansion_error
from pytest_containers.images.manifest import architecture
from pytest_containers.model.build import BuildOptions


@dataclass(slots=True, eq=False)
class BuildStage:
    """A stage of a build.

    Attributes:
        index: In the Dockerfile, from 0.
        name: Its own, or its index as text.
        image: What its FROM names, with variables replaced; empty when that is a stage.
        base: The stage that it begins from, if it does.
        needs: Stages that it copies from or mounts.
    """

    index: int
    name: str
    source: i.StageSource
    image: str = ""
    base: BuildStage | None = None
    needs: list[BuildStage] = field(default_factory=list)

    @property
    def shown(self) -> str:
        """Its name in output, as BuildKit calls it."""
        return self.source.begin.name or f"stage-{self.index}"


class Graph:
    """The stages of a Dockerfile.

    Attributes:
        globals: Arguments that stand before the first FROM, and those of the platform.
        target: The stage to build.
    """

    def __init__(self, dockerfile: Dockerfile, options: BuildOptions) -> None:
        self._dockerfile = dockerfile
        self.globals: dict[str, str] = platform_args(options)
        last = dockerfile.stages[-1].begin.name
        self.globals["TARGETSTAGE"] = options.target or last or "default"
        for arg in dockerfile.args:
            self._declare(arg, options.args)
        self.stages: list[BuildStage] = []
        for index, source in enumerate(dockerfile.stages):
            self.stages.append(self._stage(index, source))
        for stage in self.stages:
            for instruction in stage.source.instructions:
                stage.needs += self._needs(instruction)
        self.target: BuildStage = self._target(options.target)
        self._sound: set[int] = set()
        self._check_circles(self.target, [])

    def _declare(self, arg: i.Arg, build_args: Mapping[str, str]) -> None:
        # One after the other: only here BuildKit lets an argument see those before it on its line.
        for name, default in arg.pairs:
            if name in build_args:
                self.globals[name] = build_args[name]
            elif default is not None:
                self.globals[name] = self.expand(arg, default, self.globals)

    def expand(self, where: Instruction, word: str, variables: Mapping[str, str]) -> str:
        """Replace variables.

        Raises:
            DockerfileError: That cannot be done; with the instruction.
        """
        try:
            return expand_word(word, variables, self._dockerfile.escape)
        except ExpansionError as error:
            raise self.misread(where, error) from None

    def misread(self, where: Instruction, error: ExpansionError) -> DockerfileError:
        """Return an error at a word of an instruction."""
        return expansion_error(self._dockerfile, where, error)

    def error(self, where: Instruction, message: str, *, below: str = "") -> DockerfileError:
        """Return an error of an instruction."""
        lines = self._dockerfile.content.removeprefix("\ufeff").split("\n")
        source_line = lines[where.line - 1] if 0 < where.line <= len(lines) else where.text
        column = len(source_line) - len(source_line.lstrip()) + 1
        return at_line(
            f"{where.KEYWORD}: {message}",
            self._dockerfile.name,
            where.line,
            column,
            source_line,
            below=below,
        )

    def _stage(self, index: int, source: i.StageSource) -> BuildStage:
        begin = source.begin
        name = self.expand(begin, begin.image, self.globals)
        if not name:
            raise self.error(
                begin,
                f"{begin.image} is empty: give it a value with ARG before the first FROM, "
                "or with --build-arg",
            )
        self._check_platform(begin)
        stage = BuildStage(index, begin.name or str(index), source)
        base = next(
            (
                earlier
                for earlier in reversed(self.stages)
                if earlier.source.begin.name == name.lower()
            ),
            None,
        )
        if base is not None:
            stage.base = base
        else:
            stage.image = name
        return stage

    def _check_platform(self, begin: i.From) -> None:
        platform = self.expand(begin, begin.platform, self.globals)
        if platform and not is_native(platform):
            raise self.error(
                begin,
                f"--platform={platform}: this machine builds linux/{architecture()}; build "
                "it on such a machine",
            )

    def find(self, name: str) -> BuildStage | None:
        """Return the stage that COPY and RUN call `name`: a name, or an index."""
        for stage in reversed(self.stages):
            if stage.source.begin.name and stage.source.begin.name == name.lower():
                return stage
        if is_number(name) and int(name) < len(self.stages):
            return self.stages[int(name)]
        return None

    def _needs(self, instruction: Instruction) -> Iterator[BuildStage]:
        names: list[str] = []
        if isinstance(instruction, i.Copy):
            names = [instruction.from_]
        elif isinstance(instruction, i.Run):
            names = [mount.from_ for mount in instruction.mounts]
        for name in names:
            stage = self.find(name) if name else None
            if stage is not None:
                yield stage

    def _target(self, name: str) -> BuildStage:
        if not name:
            return self.stages[-1]
        stage = self.find(name)
        if stage is None:
            names = [stage.name for stage in self.stages]
            close = difflib.get_close_matches(name, names, 1, 0.5)
            tail = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"
            file = self._dockerfile.name
            raise DockerfileError(
                f"{file}: there is no stage {name!r}; {tail}", file=file, line=1, column=1
            )
        return stage

    def need(self, stage: BuildStage, other: BuildStage) -> None:
        """Record that a stage needs another one, as an inherited trigger has shown.

        Raises:
            DockerfileError: The other one needs the first one, too.
        """
        if other in stage.needs:
            return
        stage.needs.append(other)
        self._sound.clear()
        self._check_circles(stage, [])

    def _check_circles(self, stage: BuildStage, above: list[BuildStage]) -> None:
        if stage in above:
            names = [member.name for member in above[above.index(stage) :]]
            raise self.error(
                stage.source.begin, f"stages need each other: {' → '.join([*names, stage.name])}"
            )
        for needed in self.needed_by(stage):
            if needed.index not in self._sound:
                self._check_circles(needed, [*above, stage])
        self._sound.add(stage.index)

    @staticmethod
    def needed_by(stage: BuildStage) -> list[BuildStage]:
        """Return the stages that a stage needs directly."""
        return [*([stage.base] if stage.base is not None else []), *stage.needs]


def platform_args(options: BuildOptions) -> dict[str, str]:
    """Return the arguments that name platforms."""
    mine = architecture()
    variant = "/".join(options.platform.split("/")[2:])
    args = {}
    for prefix in ("TARGET", "BUILD"):
        args[f"{prefix}PLATFORM"] = f"linux/{mine}"
        if variant and prefix == "TARGET":
            args["TARGETPLATFORM"] += f"/{variant}"
        args[f"{prefix}OS"] = "linux"
        args[f"{prefix}ARCH"] = mine
        args[f"{prefix}VARIANT"] = variant if prefix == "TARGET" else ""
    return args


def is_native(platform: str) -> bool:
    """Return whether this machine is such a platform."""
    parts = platform.lower().split("/")
    names = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}
    if len(parts) == 1:
        return parts[0] == "linux" or names.get(parts[0], parts[0]) == architecture()
    return parts[0] == "linux" and names.get(parts[1], parts[1]) == architecture()
