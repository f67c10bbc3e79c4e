"""A stage, instruction by instruction."""

from __future__ import annotations

import errno
import json
import os
import posixpath
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from signal import SIGRTMAX
from typing import Any

from pytest_containers.build import copies
from pytest_containers.build.context import Context
from pytest_containers.build.dockerfile import instructions as i
from pytest_containers.build.dockerfile.errors import DockerfileError
from pytest_containers.build.dockerfile.expand import (
    ExpansionError,
    expand_text,
    expand_word,
    expand_words,
)
from pytest_containers.build.dockerfile.instructions import Instruction
from pytest_containers.build.dockerfile.parser import parse_trigger
from pytest_containers.build.dockerfile.source import heredoc_name
from pytest_containers.build.executor import Executor, Exited, Writing
from pytest_containers.build.mounts import Mounts, Prepared
from pytest_containers.build.options import PROXIES, BuildOptions
from pytest_containers.build.progress import Progress, Shown
from pytest_containers.build.remote import Downloads
from pytest_containers.build.result import PATH, Result
from pytest_containers.build.runtime import FileMount, Program
from pytest_containers.build.stages import Graph, Stage
from pytest_containers.errors import BuildError, ContainersError, SpecError, hide_frames
from pytest_containers.images.image import Image, Layer
from pytest_containers.spec import signal_number

__tracebackhide__ = hide_frames

_PORT = re.compile(r"(?:[^/]*:)?(\d+)(?:-(\d+))?(?:/(\w+))?\Z")
_SCRIPTS = "/dev/pipes"
_FULL = os.strerror(errno.ENOSPC)
_HALF = "as much as half of the memory"
_LAYERED = (i.Run, i.Copy, i.Add, i.Workdir)
Other = Callable[[str], tuple[Image, str]]
"""The image that ``--from`` names, and what messages call it."""


class Evaluator:
    """Does the instructions of one stage.

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
        self, graph: Graph, stage: Stage, result: Result, *, options: BuildOptions,
        executor: Executor, context: Context, other: Other, downloads: Downloads,
        progress: Progress, escape: str, failed: Callable[[Result, Layer | None], str],
    ) -> None:  # fmt: skip
        self._graph = graph
        self._stage = stage
        self.result: Result = result
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
        layered = [one for one in stage.source.instructions if isinstance(one, _LAYERED)]
        self._total = len(layered) + 1
        self._at = 1

    # ------------------------------------------------------------------ the walk

    def evaluate(self) -> Result:
        """Do all of it.

        Raises:
            BuildError: An instruction failed; with its place.
        """
        triggers = self.result.config.pop("OnBuild", None) or []
        begin = self._stage.source.begin
        for text in triggers:
            try:
                trigger = parse_trigger(str(text), f"ONBUILD of {begin.image}")
            except DockerfileError as error:
                raise self._graph.error(begin, str(error)) from None
            self._total += isinstance(trigger, _LAYERED)
            self._trigger = str(text)
            self._one(trigger, begin)
        self._trigger = ""
        for instruction in self._stage.source.instructions:
            self._one(instruction, instruction)
        return self.result

    def _one(self, instruction: Instruction, where: Instruction) -> None:
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
        """An error of the instruction that is being done."""
        if self._trigger:
            message = f"its trigger {_flat(self._trigger)!r}: {message}"
        return self._graph.error(self._where, message, below=below)

    def _expand(self, text: str) -> str:
        return expand_word(text, self.result.variables, self._escape)

    def _document(self, text: str) -> str:
        return expand_text(text, self.result.variables)  # ``# escape=`` is not for documents

    def _note(self, created_by: str) -> None:
        """An instruction that only changes the config: it is as old as what it stands on."""
        epoch = self._options.epoch
        time = self.result.made_at if epoch is None else float(epoch)
        self.result.note(created_by, time, empty=True)

    def _shown(self, text: str) -> Shown:
        self._at += 1
        return self._progress.step(f"[{self._stage.shown} {self._at}/{self._total}] {text}")

    def _layer(
        self, text: str, created_by: str, key: Mapping[str, Any],
        do: Callable[[Shown, ExitStack], tuple[Layer | None, str]],
    ) -> None:  # fmt: skip
        """A step that may make a layer."""
        shown = self._shown(text)
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

    def _arg(self, one: i.Arg) -> None:
        values: dict[str, str | None] = {}
        for name, default in one.pairs:
            self.declared.add(name)
            if name in self._options.args:
                values[name] = self._options.args[name]
            elif default is not None:
                values[name] = self._expand(default)
            elif name in self._graph.globals:
                values[name] = self._graph.globals[name]
            else:
                values[name] = self.result.args.get(name)
        self.result.args.update(values)
        shown = " ".join(
            name if value is None else f"{name}={value}" for name, value in values.items()
        )
        self._note(f"ARG {shown}")

    def _env(self, one: i.Env) -> None:
        pairs = [(self._expand(name), self._expand(value)) for name, value in one.pairs]
        for name, value in pairs:
            self.result.set_env(name, value)
        self._note(f"ENV {' '.join(f'{name}={value}' for name, value in pairs)}")

    def _label(self, one: i.Label) -> None:
        pairs = {self._expand(name): self._expand(value) for name, value in one.pairs}
        self.result.config["Labels"] = {**(self.result.config.get("Labels") or {}), **pairs}
        self._note(f"LABEL {' '.join(f'{name}={value}' for name, value in pairs.items())}")

    def _maintainer(self, one: i.Maintainer) -> None:
        self.result.document["author"] = one.author
        self._note(f"MAINTAINER {one.author}")

    def _words(self, command: i.Command) -> list[str]:
        return [*self.result.shell, *command.words] if command.shell else list(command.words)

    def _cmd(self, one: i.Cmd) -> None:
        self._cmd_set = True
        self.result.config["Cmd"] = self._words(one.command)
        self._note(f"CMD {json.dumps(self.result.config['Cmd'])}")

    def _entrypoint(self, one: i.Entrypoint) -> None:
        self.result.config["Entrypoint"] = self._words(one.command)
        if not self._cmd_set:
            self.result.config.pop("Cmd", None)
        self._note(f"ENTRYPOINT {json.dumps(self.result.config['Entrypoint'])}")

    def _shell(self, one: i.Shell) -> None:
        self.result.config["Shell"] = list(one.words)
        self._note(f"SHELL {json.dumps(list(one.words))}")

    def _healthcheck(self, one: i.Healthcheck) -> None:
        if one.command is None:
            test = ["NONE"]
        elif one.command.shell:
            test = ["CMD-SHELL", *one.command.words]
        else:
            test = ["CMD", *one.command.words]
        numbers = {
            "Interval": one.interval_ns, "Timeout": one.timeout_ns,
            "StartPeriod": one.start_period_ns, "StartInterval": one.start_interval_ns,
            "Retries": one.retries,
        }  # fmt: skip
        given = {name: number for name, number in numbers.items() if number}
        self.result.config["Healthcheck"] = {"Test": test, **given}
        self._note(one.text)

    def _expose(self, one: i.Expose) -> None:
        ports: list[str] = []
        for text in one.ports:
            for word in expand_words(text, self.result.variables, self._escape):
                ports += _ports(word)
        known = self.result.config.get("ExposedPorts") or {}
        self.result.config["ExposedPorts"] = {**known, **{port: {} for port in ports}}
        self._note(f"EXPOSE {' '.join(ports)}")

    def _volume(self, one: i.Volume) -> None:
        paths = [self._expand(path) for path in one.paths]
        if not all(paths):
            raise BuildError("a directory is empty after its variables were replaced")
        known = self.result.config.get("Volumes") or {}
        self.result.config["Volumes"] = {**known, **{path: {} for path in paths}}
        self._note(f"VOLUME {json.dumps(paths)}")

    def _user(self, one: i.User) -> None:
        self.result.config["User"] = self._expand(one.user)
        self._note(f"USER {self.result.config['User']}")

    def _stop_signal(self, one: i.StopSignal) -> None:
        signal = self._expand(one.signal)
        try:
            signal_number(signal)
        except SpecError as error:
            raise BuildError(f"{error.message}: expected SIGTERM, or a number") from None
        self.result.config["StopSignal"] = signal
        self._note(f"STOPSIGNAL {signal}")

    def _on_build(self, one: i.OnBuild) -> None:
        known = self.result.config.get("OnBuild") or []
        self.result.config["OnBuild"] = [*known, one.trigger]
        self._note(f"ONBUILD {one.trigger}")

    # --------------------------------------------------------------- with layers

    def _workdir(self, one: i.Workdir) -> None:
        path = posixpath.normpath(posixpath.join(self.result.workdir, self._expand(one.path)))
        path = "/" + path.lstrip("/")
        self.result.config["WorkingDir"] = path
        result = self.result
        # What is made on the way is the user's, where there are users.
        user = "" if self._executor.single else str(result.config.get("User") or "")
        key = {"kind": "workdir", "chain": result.chain, "path": path, "user": user}
        writing = Writing([{"kind": "folder", "to": path.lstrip("/")}], owner=user)
        self._layer(
            f"WORKDIR {one.path}", f"WORKDIR {path}", key,
            lambda _, others: self._executor.write(result, writing, "", others),
        )  # fmt: skip

    def _title(self, one: Instruction) -> str:
        return _flat(one.text)

    def _transfer(self, one: i.Transfer) -> None:
        result = self.result
        collected = copies.Collected(result.workdir, one, self._expand)
        image = None
        if isinstance(one, i.Copy) and one.from_:
            image, what = self._other(one.from_)
            collected.add_taken(what)
        else:
            copies.collect_files(
                self._context, one, self._expand, self._document, collected, self._downloads
            )
        base = result.chain if collected.needs_base else ""
        key = {**collected.key, "kind": "files" if image is None else "copy", "chain": base}
        second = ""
        if image is not None:
            second = self._executor.digest(key)
            key["source"] = Result(image, {}).chain
        self._layer(
            self._title(one), f"{one.KEYWORD} {one.text.partition(' ')[2]}", key,
            lambda _, others: self._executor.write(
                result, collected.writing(image), second, others
            ),
        )  # fmt: skip

    def _run(self, one: i.Run) -> None:
        result = self.result
        if one.security == "insecure":
            raise BuildError(
                "--security=insecure is not possible: no container here has more rights than its "
                "user"
            )
        env = result.env
        args = {
            name: value
            for name, value in result.args.items()
            if value is not None and name not in env
        }
        known = {name: value for name, value in args.items() if self._counts(name)}
        script, command = self._command(one)
        with ExitStack() as stack:
            mounts = self._mounts.prepare(one, self._expand, result.workdir, stack)
            whole = {"PATH": PATH, **args, **env, **mounts.env}
            for name in PROXIES:
                if name in self._options.args:
                    whole.setdefault(name, self._options.args[name])
            network = one.network if one.network != "default" else self._options.network
            program = Program(
                command, whole, str(result.config.get("User") or ""), result.workdir,
                network,  # type: ignore[arg-type]  # the parser has checked it
                script, self._options.scratch, self._options.scratch_size_bytes,
            )  # fmt: skip
            key = {
                "kind": "run", "chain": result.chain, "args": command, "env": sorted(env.items()),
                "build_args": sorted(known.items()), "user": program.user,
                "workdir": program.workdir, "network": network, "mounts": mounts.facts,
                "script": [one.data.decode(errors="surrogateescape") for one in script],
            }  # fmt: skip
            prefix = "".join(f" {name}={value}" for name, value in sorted(known.items()))
            counted = f"|{len(known)}{prefix} " if known else ""
            # What a secret is, is in the environment only: never in what is kept.
            created_by = f"RUN {counted}{' '.join(command)}"
            self._layer(
                self._title(one), created_by, key,
                lambda shown, others: self._ran(one, result, program, mounts, shown, others),
            )  # fmt: skip

    def _counts(self, name: str) -> bool:
        """Whether an argument decides what a RUN leaves: a proxy does if it was declared."""
        return name not in PROXIES or name in self.declared

    def _command(self, one: i.Run) -> tuple[list[FileMount], list[str]]:
        """The command line, with documents in it."""
        if not one.heredocs or not one.command.shell:
            return [], self._words(one.command)
        line = one.command.words[0]
        first = one.heredocs[0]
        if heredoc_name(line) is None:
            text = line + "".join(f"\n{each.text}{each.name}" for each in one.heredocs)
            return [], [*self.result.shell, text]
        if first.content.startswith("#!"):
            path = f"{_SCRIPTS}/{first.name}"
            data = first.content.encode(errors="surrogateescape")
            return [FileMount(path, data, 0o755)], [path]
        return [], [*self.result.shell, first.content]

    def _ran(
        self, one: i.Run, result: Result, program: Program, mounts: Prepared, shown: Shown,
        others: ExitStack,
    ) -> tuple[Layer | None, str]:  # fmt: skip
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
        except Exited as exited:
            shown.flush()
            raise self._run_failed(result, program, exited, shown) from None

    def _run_failed(
        self, result: Result, program: Program, exited: Exited, shown: Shown
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
        error.data |= {"exit_code": code, "log_tail": "\n".join(shown.tail)}
        return error


def _flat(text: str, limit: int = 200) -> str:
    """A command on one line, not without end."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _ports(text: str) -> list[str]:
    match = _PORT.match(text)
    if match is None:
        raise BuildError(f"{text!r} is not a port: expected 80, 80/udp or 8000-8005/tcp")
    first, last = int(match[1]), int(match[2] or match[1])
    protocol = (match[3] or "tcp").lower()
    if protocol not in ("tcp", "udp", "sctp") or not 0 < first <= last < 65536:
        raise BuildError(f"{text!r} is not a port: expected 80, 80/udp or 8000-8005/tcp")
    return [f"{number}/{protocol}" for number in range(first, last + 1)]


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
