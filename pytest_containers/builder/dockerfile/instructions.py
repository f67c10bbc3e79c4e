"""The instructions of a Dockerfile, typed. Variables in them are not replaced yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pytest_containers.builder.dockerfile.source import Heredoc

MountType = Literal["bind", "cache", "tmpfs", "secret", "ssh"]
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Command:
    """A command line.

    Attributes:
        words: Arguments; of the shell form, the one line.
        shell: Whether it is for a shell.
    """

    words: tuple[str, ...]
    shell: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """An instruction of a Dockerfile.

    Attributes:
        line, end_line: Where it stands, from 1; without its heredocs.
        text: As it is written, without its continuations.
    """

    KEYWORD: ClassVar[str]

    line: int
    end_line: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    """The beginning of a stage, called `name`, from an image or another stage."""

    KEYWORD: ClassVar[str] = "FROM"
    image: str
    platform: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """Declarations of build arguments; None stands for no default."""

    KEYWORD: ClassVar[str] = "ARG"
    pairs: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    """Environment variables."""

    KEYWORD: ClassVar[str] = "ENV"
    pairs: Pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    """Labels."""

    KEYWORD: ClassVar[str] = "LABEL"
    pairs: Pairs


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount of a RUN. Fields that are empty were not given.

    Attributes:
        option: The value of ``--mount`` as it is written: with variables, it is to be read again
            (`mounts.parse_mount`).
    """

    type: MountType = "bind"
    from_: str = ""
    source: str = ""
    target: str = ""
    read_only: bool | None = None
    id: str = ""
    sharing: str = "shared"
    required: bool = False
    size: str = ""
    mode: str = ""
    uid: str = ""
    gid: str = ""
    env: str = ""
    option: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    """A command to run."""

    KEYWORD: ClassVar[str] = "RUN"
    command: Command
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[Mount, ...] = ()
    network: str = "default"
    security: str = "sandbox"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Instruction):
    """The common part of COPY and ADD.

    Attributes:
        sources: Paths, patterns, addresses; and documents of the file itself.
        chown: ``user[:group]``, or empty.
        chmod: Octal or symbolic, or empty.
        link: Whether it goes into a layer that needs nothing of those below.
        exclude: Patterns.
    """

    sources: tuple[str | Heredoc, ...]
    destination: str
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Transfer):
    """A copy from the context, another stage or an image."""

    KEYWORD: ClassVar[str] = "COPY"
    from_: str = ""
    parents: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Transfer):
    """A copy from the context, an address or an archive."""

    KEYWORD: ClassVar[str] = "ADD"
    keep_git_dir: bool | None = None
    checksum: str = ""
    unpack: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Instruction):
    """The command that is run by default."""

    KEYWORD: ClassVar[str] = "CMD"
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Instruction):
    """The program that gets the command as its arguments."""

    KEYWORD: ClassVar[str] = "ENTRYPOINT"
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    """The program that runs commands in shell form."""

    KEYWORD: ClassVar[str] = "SHELL"
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(Instruction):
    """The check whether a container is well; a command of None is no check.

    Attributes:
        interval_ns, timeout_ns, start_period_ns, start_interval_ns: 0 was not given.
        retries: 0 was not given.
    """

    KEYWORD: ClassVar[str] = "HEALTHCHECK"
    command: Command | None
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    """Ports that are listened on: ``80``, ``80/udp``, ``8000-8005``."""

    KEYWORD: ClassVar[str] = "EXPOSE"
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    """Directories that are to be volumes."""

    KEYWORD: ClassVar[str] = "VOLUME"
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    """The working directory."""

    KEYWORD: ClassVar[str] = "WORKDIR"
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    """The user that commands run as."""

    KEYWORD: ClassVar[str] = "USER"
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSignal(Instruction):
    """The signal that asks a container to end."""

    KEYWORD: ClassVar[str] = "STOPSIGNAL"
    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Instruction):
    """The author."""

    KEYWORD: ClassVar[str] = "MAINTAINER"
    author: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBuild(Instruction):
    """An instruction for builds on top of this image.

    Attributes:
        trigger: Its text, with its heredocs.
    """

    KEYWORD: ClassVar[str] = "ONBUILD"
    trigger: str


@dataclass(frozen=True, slots=True)
class StageSource:
    """A stage.

    Attributes:
        begin: Its FROM.
        instructions: After it.
    """

    begin: From
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A whole Dockerfile.

    Attributes:
        name: In messages.
        args: Before the first FROM.
        escape: Its escape character.
        directives: ``syntax``, ``escape``, ``check``, where given.
        warnings: One sentence each.
        content: The whole file.
    """

    name: str
    args: tuple[Arg, ...]
    stages: tuple[StageSource, ...]
    escape: str
    directives: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    content: str

    def __iter__(self) -> Iterator[Instruction]:
        """Yield every instruction, in the order of the file."""
        yield from self.args
        for stage in self.stages:
            yield stage.begin
            yield from stage.instructions
