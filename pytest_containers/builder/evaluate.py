"""A stage, instruction by instruction."""

from __future__ import annotations

import errno
import json
import os
import posixpath
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from signal import SIGRTMAX
from typing import Any

from pytest_containers.builder import copies
from pytest_containers.builder.context import Context
from pytest_containers.builder.dockerfile import instructions as i
from pytest_containers.builder.dockerfile.errors import DockerfileError
from pytest_containers.builder.dockerfile.expand import (
    ExpansionError,
    expand_text,
    expand_word,
    expand_words,
)
from pytest_containers.builder.dockerfile.instructions import Instruction
from pytest_containers.builder.dockerfile.parser import parse_trigger
from pytest_containers.builder.dockerfile.ports import ports_of
from pytest_containers.builder.dockerfile.source import heredoc_name
from pytest_containers.builder.executor import Executor, RunFailed, Writing
from pytest_containers.builder.mounts import Mounts, Prepared
from pytest_containers.builder.options import PROXIES
from pytest_containers.builder.progress import Progress, Shown
from pytest_containers.builder.remote import Downloads
from pytest_containers.builder.result import PATH, StageResult
from pytest_containers.builder.runtime import BuildProgram, FileMount
from pytest_containers.builder.stages import BuildStage, Graph
from pytest_containers.images.image import Image, Layer
from pytest_containers.model.build import BuildOptions
from pytest_containers.model.errors import BuildError, ContainersError, SpecError, hide_frames
from pytest_containers.model.spec import signal_number

__tracebackhide__ = hide_frames

_SCRIPTS = "/dev/pipes"
_FULL = os.strerror(errno.ENOSPC)
_HALF = "as much as half of the memory"
_LAYERED = (i.Run, i.Copy, i.Add, i.Workdir)
Other = Callable[[str], tuple[Image, str]]
"""The image that ``--from`` names, and what messages call it."""


class Evaluator:
    """The evaluation of one stage, instruction by instruction.

    Args:
        graph: The stages.
        stage: This one.
        result: What it begins from; owned from now on.
        context: The build context.
        other: Finds other stages and images.
        failed: Keeps a failed step's files: the result below, and the layer.

    Attributes:
        declared: Names of its ARGs, also of inherited ones.
    """

    def __init__(
        self,
        graph: Graph,
        stage: BuildStage,
        result: StageResult,
        *,
        options: BuildOptions,
        executor: Executor,
        context: Context,
        other: Other,
        downloads: Downloads,
        progress: Progress,
        escape: str,
        failed: Callable[[StageResult, Layer | None], str],
    ) -> None:
        self._graph = graph
        self._stage = stage
        self.result: StageResult = result
        self._options = options
        self._executor = executor
        self._context = context
        self._other = other
        self._downloads = downloads
        self._progress = progress
        self._escape = escape
        self._failed = failed
        self._cmd_set = False
        self.declared: set[str] = set()
        self._where: Instruction = stage.source.begin
        self._trigger = ""
        self._mounts = Mounts(executor, context, other, options)
        layered = [
            instruction
            for instruction in stage.source.instructions
            if isinstance(instruction, _LAYERED)
        ]
        self._total = len(layered) + 1
        self._step_number = 1

    # ------------------------------------------------------------------ the walk

    def evaluate(self) -> StageResult:
        """Evaluate all instructions of the stage.

        Raises:
            BuildError: An instruction failed; with its place.
        """
        triggers = self.result.config.pop("OnBuild", None) or []
        begin = self._stage.source.begin
        for trigger in triggers:
            try:
                instruction = parse_trigger(str(trigger), f"ONBUILD of {begin.image}")
            except DockerfileError as error:
                raise self._graph.error(begin, str(error)) from None
            self._total += isinstance(instruction, _LAYERED)
            self._trigger = str(trigger)
            self._perform(instruction, begin)
        self._trigger = ""
        for instruction in self._stage.source.instructions:
            self._perform(instruction, instruction)
        return self.result

    def _perform(self, instruction: Instruction, where: Instruction) -> None:
        self._where = where
        try:
            _DO[type(instruction)](self, instruction)
        except DockerfileError:
            raise
        except ExpansionError as error:
            if self._trigger:
                raise self._error(str(error)) from None
            raise self._graph.misread(where, error) from None
        except ContainersError as error:
            raise self._error(error.message) from error

    def _error(self, message: str, *, below: str = "") -> DockerfileError:
        """Return an error of the instruction that is being evaluated."""
        if self._trigger:
            message = f"its trigger {_flat(self._trigger)!r}: {message}"
        return self._graph.error(self._where, message, below=below)

    def _expand(self, word: str) -> str:
        return expand_word(word, self.result.variables, self._escape)

    def _document(self, content: str) -> str:
        return expand_text(content, self.result.variables)  # ``# escape=`` is not for documents

    def _note(self, created_by: str) -> None:
        """Record an instruction that only changes the config; it is as old as the result before."""
        epoch = self._options.epoch
        time = self.result.made_at if epoch is None else float(epoch)
        self.result.note(created_by, time, empty=True)

    def _shown(self, title: str) -> Shown:
        self._step_number += 1
        return self._progress.step(
            f"[{self._stage.shown} {self._step_number}/{self._total}] {title}"
        )

    def _layer(
        self,
        title: str,
        created_by: str,
        key: Mapping[str, Any],
        do: Callable[[Shown, ExitStack], tuple[Layer | None, str]],
    ) -> None:
        """Do a step that may make a layer."""
        shown = self._shown(title)
        try:
            layer, time, was_done = self._executor.step(key, lambda others: do(shown, others))
        except BaseException as error:
            shown.failed(str(error).partition("\n")[0] or type(error).__name__)
            raise
        if was_done:
            shown.cached()
        else:
            shown.done()
        if layer is not None:
            self.result.add_layer(layer)
        if self._options.epoch is not None:
            time = float(self._options.epoch)
        self.result.note(created_by, time, empty=layer is None)

    # --------------------------------------------------------------- the config

    def _arg(self, instruction: i.Arg) -> None:
        values: dict[str, str | None] = {}
        for name, default in instruction.pairs:
            self.declared.add(name)
            if name in self._options.args:
                values[name] = self._options.args[name]
            elif default is not None:
                values[name] = self._expand(default)
            elif name in self._graph.globals:
                values[name] = self._graph.globals[name]
            else:
                values[name] = self.result.args.get(name)
                continue
            self.result.overriding.add(name)
        self.result.args.update(values)
        shown = " ".join(
            name if value is None else f"{name}={value}" for name, value in values.items()
        )
        self._note(f"ARG {shown}")

    def _env(self, instruction: i.Env) -> None:
        pairs = [(self._expand(name), self._expand(value)) for name, value in instruction.pairs]
        for name, value in pairs:
            self.result.set_env(name, value)
        self._note(f"ENV {' '.join(f'{name}={value}' for name, value in pairs)}")

    def _label(self, instruction: i.Label) -> None:
        pairs = {self._expand(name): self._expand(value) for name, value in instruction.pairs}
        self.result.config["Labels"] = {**(self.result.config.get("Labels") or {}), **pairs}
        self._note(f"LABEL {' '.join(f'{name}={value}' for name, value in pairs.items())}")

    def _maintainer(self, instruction: i.Maintainer) -> None:
        self.result.document["author"] = instruction.author
        self._note(f"MAINTAINER {instruction.author}")

    def _words(self, command: i.Command) -> list[str]:
        return [*self.result.shell, *command.words] if command.shell else list(command.words)

    def _cmd(self, instruction: i.Cmd) -> None:
        self._cmd_set = True
        self.result.config["Cmd"] = self._words(instruction.command)
        self._note(f"CMD {json.dumps(self.result.config['Cmd'])}")

    def _entrypoint(self, instruction: i.Entrypoint) -> None:
        self.result.config["Entrypoint"] = self._words(instruction.command)
        if not self._cmd_set:
            self.result.config.pop("Cmd", None)
        self._note(f"ENTRYPOINT {json.dumps(self.result.config['Entrypoint'])}")

    def _shell(self, instruction: i.Shell) -> None:
        self.result.config["Shell"] = list(instruction.words)
        self._note(f"SHELL {json.dumps(list(instruction.words))}")

    def _healthcheck(self, instruction: i.Healthcheck) -> None:
        if instruction.command is None:
            test = ["NONE"]
        elif instruction.command.shell:
            test = ["CMD-SHELL", *instruction.command.words]
        else:
            test = ["CMD", *instruction.command.words]
        numbers = {
            "Interval": instruction.interval_ns,
            "Timeout": instruction.timeout_ns,
            "StartPeriod": instruction.start_period_ns,
            "StartInterval": instruction.start_interval_ns,
            "Retries": instruction.retries,
        }
        nonzero = {name: number for name, number in numbers.items() if number}
        self.result.config["Healthcheck"] = {"Test": test, **nonzero}
        self._note(instruction.text)

    def _expose(self, instruction: i.Expose) -> None:
        ports: list[str] = []
        for port in instruction.ports:
            for word in expand_words(port, self.result.variables, self._escape):
                ports += ports_of(word)
        exposed = self.result.config.get("ExposedPorts") or {}
        self.result.config["ExposedPorts"] = {**exposed, **{port: {} for port in ports}}
        self._note(f"EXPOSE {' '.join(ports)}")

    def _volume(self, instruction: i.Volume) -> None:
        paths = [self._expand(path) for path in instruction.paths]
        if not all(paths):
            raise BuildError("a directory is empty after its variables were replaced")
        volumes = self.result.config.get("Volumes") or {}
        self.result.config["Volumes"] = {**volumes, **{path: {} for path in paths}}
        self._note(f"VOLUME {json.dumps(paths)}")

    def _user(self, instruction: i.User) -> None:
        self.result.config["User"] = self._expand(instruction.user)
        self._note(f"USER {self.result.config['User']}")

    def _stop_signal(self, instruction: i.StopSignal) -> None:
        signal = self._expand(instruction.signal)
        try:
            signal_number(signal)
        except SpecError as error:
            raise BuildError(f"{error.message}: expected SIGTERM, or a number") from None
        self.result.config["StopSignal"] = signal
        self._note(f"STOPSIGNAL {signal}")

    def _on_build(self, instruction: i.OnBuild) -> None:
        triggers = self.result.config.get("OnBuild") or []
        self.result.config["OnBuild"] = [*triggers, instruction.trigger]
        self._note(f"ONBUILD {instruction.trigger}")

    # --------------------------------------------------------------- with layers

    def _workdir(self, instruction: i.Workdir) -> None:
        path = posixpath.normpath(
            posixpath.join(self.result.workdir, self._expand(instruction.path))
        )
        path = "/" + path.lstrip("/")
        self.result.config["WorkingDir"] = path
        result = self.result
        # What is made on the way is the user's, where there are users.
        user = "" if self._executor.single else str(result.config.get("User") or "")
        key = {"kind": "workdir", "chain": result.chain, "path": path, "user": user}
        writing = Writing([{"kind": "folder", "to": path.lstrip("/")}], owner=user)
        self._layer(
            f"WORKDIR {instruction.path}",
            f"WORKDIR {path}",
            key,
            lambda shown, others: self._executor.write(result, writing, "", others, shown),
        )

    def _title(self, instruction: Instruction) -> str:
        return _flat(instruction.text)

    def _transfer(self, instruction: i.Transfer) -> None:
        result = self.result
        collected = copies.Collected(result.workdir, instruction, self._expand)
        image = None
        if isinstance(instruction, i.Copy) and instruction.from_:
            image, image_name = self._other(instruction.from_)
            collected.add_taken(image_name)
        else:
            copies.collect_files(
                self._context, instruction, self._expand, self._document, collected, self._downloads
            )
        base = result.chain if collected.needs_base else ""
        key = {**collected.key, "kind": "files" if image is None else "copy", "chain": base}
        second = ""
        if image is not None:
            second = self._executor.digest(key)
            key["source"] = StageResult(image, {}).chain
        self._layer(
            self._title(instruction),
            f"{instruction.KEYWORD} {instruction.text.partition(' ')[2]}",
            key,
            lambda shown, others: self._executor.write(
                result, collected.writing(image), second, others, shown
            ),
        )

    def _run(self, instruction: i.Run) -> None:
        result = self.result
        if instruction.security == "insecure":
            raise BuildError(
                "--security=insecure is not possible: no container here has more rights than its "
                "user"
            )
        env = result.env
        args = {
            name: value
            for name, value in result.args.items()
            if value is not None and (name not in env or name in result.overriding)
        }
        deciding = {name: value for name, value in args.items() if self._counts(name)}
        script, command = self._command(instruction)
        with ExitStack() as stack:
            mounts = self._mounts.prepare(instruction, self._expand, result.workdir, stack)
            whole = {"PATH": PATH, **env, **args, **mounts.env}
            for name in PROXIES:
                if name in self._options.args:
                    whole.setdefault(name, self._options.args[name])
            network = (
                instruction.network if instruction.network != "default" else self._options.network
            )
            program = BuildProgram(
                command,
                whole,
                str(result.config.get("User") or ""),
                result.workdir,
                network,  # type: ignore[arg-type]  # the parser has checked it
                script,
                self._options.scratch,
                self._options.scratch_size_bytes,
            )
            key = {
                "kind": "run",
                "chain": result.chain,
                "args": command,
                "env": sorted(env.items()),
                "build_args": sorted(deciding.items()),
                "user": program.user,
                "workdir": program.workdir,
                "network": network,
                "mounts": mounts.facts,
                "script": [file.data.decode(errors="surrogateescape") for file in script],
            }
            prefix = "".join(f" {name}={value}" for name, value in sorted(deciding.items()))
            counted = f"|{len(deciding)}{prefix} " if deciding else ""
            # What a secret is, is in the environment only: never in what is kept.
            created_by = f"RUN {counted}{' '.join(command)}"
            self._layer(
                self._title(instruction),
                created_by,
                key,
                lambda shown, others: self._ran(
                    instruction, result, program, mounts, shown, others
                ),
            )

    def _counts(self, name: str) -> bool:
        """Return whether an argument is part of a RUN's key; a proxy only if it was declared."""
        return name not in PROXIES or name in self.declared

    def _command(self, instruction: i.Run) -> tuple[list[FileMount], list[str]]:
        """Return the script to mount, if any, and the command line, with documents in it."""
        if not instruction.heredocs or not instruction.command.shell:
            return [], self._words(instruction.command)
        line = instruction.command.words[0]
        first = instruction.heredocs[0]
        if heredoc_name(line) is None:
            script = line + "".join(f"\n{each.body}{each.name}" for each in instruction.heredocs)
            return [], [*self.result.shell, script]
        if first.content.startswith("#!"):
            path = f"{_SCRIPTS}/{first.name}"
            data = first.content.encode(errors="surrogateescape")
            return [FileMount(path, data, 0o755)], [path]
        return [], [*self.result.shell, first.content]

    def _ran(
        self,
        instruction: i.Run,
        result: StageResult,
        program: BuildProgram,
        mounts: Prepared,
        shown: Shown,
        others: ExitStack,
    ) -> tuple[Layer | None, str]:
        mounts.make()
        shown.hide(mounts.secrets)
        program = program._replace(mounts=[*mounts.mounts, *program.mounts])
        if program.network == "default":
            line = self._executor.runtime.explain_network()
            if line:
                shown.say(line)
        keep = bool(self._options.keep_failed)
        try:
            return self._executor.run(result, program, shown, others, keep=keep)
        except RunFailed as exited:
            shown.flush()
            raise self._run_failed(result, program, exited, shown) from None

    def _run_failed(
        self, result: StageResult, program: BuildProgram, exited: RunFailed, shown: Shown
    ) -> BuildError:
        code = exited.code
        killed = 0 < code - 128 <= SIGRTMAX
        cause = f"killed by signal {code - 128}" if killed else f"exit code {code}"
        below = [f"  {line}" for line in shown.tail]
        if below:
            below.insert(0, "Its last lines:")
        if any(_FULL in line for line in shown.tail):
            limit = self._options.scratch_size_bytes
            below.append(
                f"If that is its root: a RUN may write {f'{limit} bytes' if limit else _HALF}; "
                "scratch and scratch_size_bytes (--scratch, --scratch-size) set another limit."
            )
        if self._options.keep_failed:
            below.append(self._failed(result, exited.kept))
        error = self._error(
            f"it failed with {cause}: {_flat(' '.join(program.args))}", below="\n".join(below)
        )
        error.exit_code = code
        error.log_tail = list(shown.tail)
        return error


def _flat(command: str, limit: int = 200) -> str:
    """Return a command on one line, cut at a limit."""
    line = " ".join(command.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


_DO: dict[type[Instruction], Callable[[Evaluator, Any], None]] = {
    i.Arg: Evaluator._arg,
    i.Env: Evaluator._env,
    i.Label: Evaluator._label,
    i.Maintainer: Evaluator._maintainer,
    i.Cmd: Evaluator._cmd,
    i.Entrypoint: Evaluator._entrypoint,
    i.Shell: Evaluator._shell,
    i.Healthcheck: Evaluator._healthcheck,
    i.Expose: Evaluator._expose,
    i.Volume: Evaluator._volume,
    i.User: Evaluator._user,
    i.StopSignal: Evaluator._stop_signal,
    i.OnBuild: Evaluator._on_build,
    i.Workdir: Evaluator._workdir,
    i.Copy: Evaluator._transfer,
    i.Add: Evaluator._transfer,
    i.Run: Evaluator._run,
}
