"""Which stages a build needs, and what each needs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pytest_containers.build.dockerfile import instructions as i
from pytest_containers.build.dockerfile.errors import DockerfileError, at_line
from pytest_containers.build.dockerfile.expand import ExpansionError, expand_word, is_number
from pytest_containers.build.dockerfile.instructions import Dockerfile, Instruction
from pytest_containers.build.dockerfile.places import expansion_error
from pytest_containers.build.options import BuildOptions
from pytest_containers.images.manifest import architecture


@dataclass(slots=True, eq=False)
class Stage:
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
    source: i.Stage
    image: str = ""
    base: Stage | None = None
    needs: list[Stage] = field(default_factory=list)

    @property
    def shown(self) -> str:
        """For output: as BuildKit calls it."""
        return self.source.begin.name or f"stage-{self.index}"


class Graph:
    """The stages of a Dockerfile.

    Attributes:
        globals: Arguments that stand before the first FROM, and those of the platform.
        target: The stage that is wanted.
    """

    def __init__(self, dockerfile: Dockerfile, options: BuildOptions) -> None:
        self._dockerfile = dockerfile
        self.globals: dict[str, str] = platform_args(options)
        self.globals["TARGETSTAGE"] = options.target or "default"
        for arg in dockerfile.args:
            self._declare(arg, options.args)
        self.stages: list[Stage] = []
        for index, source in enumerate(dockerfile.stages):
            self.stages.append(self._stage(index, source))
        for stage in self.stages:
            for instruction in stage.source.instructions:
                stage.needs += self._needs(instruction)
        self.target: Stage = self._target(options.target)
        self._sound: set[int] = set()
        self._check_circles(self.target, [])

    def _declare(self, arg: i.Arg, given: Mapping[str, str]) -> None:
        # One after the other: only here BuildKit lets an argument see those before it on its line.
        for name, default in arg.pairs:
            if name in given:
                self.globals[name] = given[name]
            elif default is not None:
                self.globals[name] = self.expand(arg, default, self.globals)

    def expand(self, where: Instruction, text: str, variables: Mapping[str, str]) -> str:
        """Replace variables.

        Raises:
            DockerfileError: That cannot be done; with the instruction.
        """
        try:
            return expand_word(text, variables, self._dockerfile.escape)
        except ExpansionError as error:
            raise self.misread(where, error) from None

    def misread(self, where: Instruction, error: ExpansionError) -> DockerfileError:
        """An error of a word of an instruction, at the word."""
        return expansion_error(self._dockerfile, where, error)

    def error(self, where: Instruction, message: str, *, below: str = "") -> DockerfileError:
        """An error of an instruction."""
        lines = self._dockerfile.text.removeprefix("\ufeff").split("\n")
        text = lines[where.line - 1] if 0 < where.line <= len(lines) else where.text
        column = len(text) - len(text.lstrip()) + 1
        return at_line(
            f"{where.KEYWORD}: {message}", self._dockerfile.name, where.line, column, text,
            below=below,
        )  # fmt: skip

    def _stage(self, index: int, source: i.Stage) -> Stage:
        begin = source.begin
        name = self.expand(begin, begin.image, self.globals)
        if not name:
            raise self.error(
                begin, f"{begin.image} is empty: give it a value with ARG before the first FROM, "
                "or with --build-arg",
            )  # fmt: skip
        self._check_platform(begin)
        stage = Stage(index, begin.name or str(index), source)
        base = next(
            (one for one in reversed(self.stages) if one.source.begin.name == name.lower()), None
        )
        if base is not None:
            stage.base = base
        else:
            stage.image = name
        return stage

    def _check_platform(self, begin: i.From) -> None:
        wanted = self.expand(begin, begin.platform, self.globals)
        if wanted and not is_native(wanted):
            raise self.error(
                begin, f"--platform={wanted}: this machine builds linux/{architecture()}; build "
                "it on such a machine",
            )  # fmt: skip

    def find(self, name: str) -> Stage | None:
        """The stage that COPY and RUN call `name`: a name, or an index."""
        for stage in reversed(self.stages):
            if stage.source.begin.name and stage.source.begin.name == name.lower():
                return stage
        if is_number(name) and int(name) < len(self.stages):
            return self.stages[int(name)]
        return None

    def _needs(self, instruction: Instruction) -> Iterator[Stage]:
        names: list[str] = []
        if isinstance(instruction, i.Copy):
            names = [instruction.from_]
        elif isinstance(instruction, i.Run):
            names = [mount.from_ for mount in instruction.mounts]
        for name in names:
            found = self.find(name) if name else None
            if found is not None:
                yield found

    def _target(self, name: str) -> Stage:
        if not name:
            return self.stages[-1]
        found = self.find(name)
        if found is None:
            known = [stage.name for stage in self.stages]
            close = difflib.get_close_matches(name, known, 1, 0.5)
            tail = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            file = self._dockerfile.name
            raise DockerfileError(
                f"{file}: there is no stage {name!r}; {tail}", file=file, line=1, column=1
            )
        return found

    def need(self, stage: Stage, other: Stage) -> None:
        """A stage needs another one; only what it inherits could tell.

        Raises:
            DockerfileError: That one needs it, too.
        """
        if other in stage.needs:
            return
        stage.needs.append(other)
        self._sound.clear()
        self._check_circles(stage, [])

    def _check_circles(self, stage: Stage, above: list[Stage]) -> None:
        if stage in above:
            names = [one.name for one in above[above.index(stage) :]]
            raise self.error(
                stage.source.begin, f"stages need each other: {' → '.join([*names, stage.name])}"
            )
        for one in self.needed_by(stage):
            if one.index not in self._sound:
                self._check_circles(one, [*above, stage])
        self._sound.add(stage.index)

    @staticmethod
    def needed_by(stage: Stage) -> list[Stage]:
        """The stages that a stage needs itself."""
        return [*([stage.base] if stage.base is not None else []), *stage.needs]


def platform_args(options: BuildOptions) -> dict[str, str]:
    """The arguments that name platforms."""
    mine = architecture()
    variant = "/".join(options.platform.split("/")[2:])
    found = {}
    for prefix in ("TARGET", "BUILD"):
        found[f"{prefix}PLATFORM"] = f"linux/{mine}"
        if variant and prefix == "TARGET":
            found["TARGETPLATFORM"] += f"/{variant}"
        found[f"{prefix}OS"] = "linux"
        found[f"{prefix}ARCH"] = mine
        found[f"{prefix}VARIANT"] = variant if prefix == "TARGET" else ""
    return found


def is_native(platform: str) -> bool:
    """Whether this machine is such a platform."""
    parts = platform.lower().split("/")
    names = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}
    if len(parts) == 1:
        return parts[0] == "linux" or names.get(parts[0], parts[0]) == architecture()
    return parts[0] == "linux" and names.get(parts[1], parts[1]) == architecture()
