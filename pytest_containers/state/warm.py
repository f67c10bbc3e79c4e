"""States: images with seeded data on top, made once and reused while their inputs are the same."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pytest_containers.model.engine import Container, Engine, Image
from pytest_containers.model.errors import ContainersError, SeedError, hide_frames, tell_of_first
from pytest_containers.model.harmless import harmless
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.model.states import Accept, Following, State, StateStore
from pytest_containers.state import facts
from pytest_containers.state.limit import time_limit
from pytest_containers.state.seeds import UNSHARED
from pytest_containers.state.trace import UsageTrace, recording

__tracebackhide__ = hide_frames

_FORMAT = 1  # the version of the contents of states
_STOP_S = 60.0
_DAY_S = 24 * 3600.0
_KEPT, _KEPT_S = 5, 30 * _DAY_S  # states of one seed; age limit of unused states
_KEPT_OTHERS, _RECENT_S = 20, 7 * _DAY_S  # states of a fixture; age limit of those beyond
_TAIL_LINES = 10


@dataclass(frozen=True, slots=True)
class Stage:
    """A step in the making of a state: start a container, change it, end it and store its files.

    Attributes:
        title: The title in messages: ``seed load_schema``.
        spec: The container; its image is replaced by the result of the previous stages.
        act: Changes the container, once it is ready.
        parts: The parts of the key besides image and spec, by name.
        traced: True if `act` is code of the user, whose inputs are traced.
        inputs: Inputs that the user has declared.
        module: The file with the code of the user.
        clean: True if the program ends with exit code 0 after its stop signal.
        limit_s: The time limit of `act`.
    """

    title: str
    spec: ContainerSpec
    act: Callable[[Container], object]
    parts: Mapping[str, str]
    traced: bool = True
    inputs: facts.Inputs = field(default_factory=lambda: facts.Inputs((), Path("/")))
    module: str | None = None
    clean: bool = False
    limit_s: float | None = None


class Outcome(NamedTuple):
    """The result of a stage.

    Attributes:
        label: The label of the fixture.
        title: The title of the stage, with the file of a function.
        reused: True if a stored state was reused.
        reason: The reason why the state was made, if it was not reused.
        seconds: The time that it took to make the state.
        made_at: The time when it was made, in seconds since the epoch.
    """

    label: str
    title: str
    reused: bool
    reason: str
    seconds: float
    made_at: float


class WarmStates:
    """The states of a test run.

    Invariants and locks:

    - A state is stored whole or not at all: `_make` keeps the files of a container that has ended.
    - The lock of a key, which all processes share, is held from the second look for the state until
      it is stored, so that one process makes it. Locks of the store are taken within it. No process
      holds the locks of two keys: a stage is stored before the next one is looked for.
    - `_images` and `_failed` belong to this process and only grow: a key has one outcome in it.

    Args:
        engine: The engine of the containers.
        root: The directory of the project.
        fresh_since: Ignore older states; None uses all.
        run: A name that all processes of a test run share, so that a seed that failed in one
            process fails at once in the others; None if there is one process only.
        tell: A callback for every `Outcome`.
        test: Returns the name of the test that asks for a state, for the tests that fail later.
        failed: Gets the container of a stage that has failed, before it is removed.
        watch: Returns a context in which something may take long; its argument says what.
        ignored: Returns the variables that differ in every run and are not inputs.
    """

    def __init__(
        self,
        engine: Engine,
        root: Path,
        *,
        fresh_since: float | None = None,
        run: str | None = None,
        tell: Callable[[Outcome], None] = lambda outcome: None,
        test: Callable[[], str] = str,
        failed: Callable[[Container], object] = lambda container: None,
        watch: Callable[[str], AbstractContextManager[object]] = nullcontext,
        ignored: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._engine = engine
        self._root = root
        self._top = os.path.join(os.path.realpath(root), "")
        self._fresh_since = fresh_since
        self._run = run
        self._tell = tell
        self._test = test
        self._tell_failed = failed
        self._watch = watch
        self._ignored = ignored
        self._images: dict[str, Image] = {}
        self._failed: dict[str, SeedError] = {}

    @property
    def _states(self) -> StateStore:
        self._engine.require("snapshots")
        return self._engine.states

    def image(self, label: str, base: Image, stages: Sequence[Stage], *, name: str) -> Image:
        """Return `base` with all stages on top; run the stages that have no stored state.

        One process runs a stage; others that need it at the same time wait.

        Args:
            label: A label of the fixture that is the same in every run, to report changes.
            name: The host name of the containers of the stages.

        Raises:
            SeedError: The code of the user failed, ran too long, or crashed the server; no state
                is stored.
            ContainersError: A container could not be made.
        """
        for index, stage in enumerate(stages):
            then = partial(self._following, label, index + 1, stages)
            base = self._stage(f"{label}#{index}", base, stage, name, then)
        return base

    def cached(self, base: Image, stages: Sequence[Stage]) -> Image | None:
        """Return the same if this process has used it before, else None; takes microseconds."""
        image: Image | None = base
        for stage in stages:
            image = self._images.get(_key(self._parts(stage, image))) if image is not None else None
        return image

    def _stage(self, label: str, base: Image, stage: Stage, name: str, then: Following) -> Image:
        parts = self._parts(stage, base)
        key = _key(parts)
        if key in self._images:
            return self._images[key]
        if key in self._failed:
            error = self._failed[key]
            raise copy.copy(error) from error.__cause__
        state, reason = self._find(key, base, label, stage)
        if state is None:
            doing = f"{stage.title} for {name!r} is run once and then stored"
            with (
                self._watch(doing + _limit_of(stage)),
                self._states.lock(key),
            ):
                state, reason = self._find(key, base, label, stage)
                if state is None:
                    self._raise_if_failed(key, stage)
                    reason = reason or self._difference(label, stage, parts)
                    make = partial(self._make, key, label, base, stage, parts, name, reason)
                    state = self._obtain(key, label, base, stage, parts, make, then)
        image = self._states.image(base, state)
        if image is None:
            raise ContainersError(f"{stage.title}: its state was removed meanwhile; try again")
        self._images[key] = image
        return image

    def _parts(self, stage: Stage, base: Image) -> dict[str, str]:
        """Return the parts of the key, without the path of the project, for other checkouts."""
        return self._parts_on(stage, base.id, "the state below it" if base.base_id else "the image")

    def _parts_on(self, stage: Stage, base_id: str, below: str) -> dict[str, str]:
        parts = {name: part.replace(self._top, "") for name, part in stage.parts.items()}
        return {below: base_id, "the spec": _spec_digest(stage.spec), **parts}

    def _following(
        self, label: str, index: int, stages: Sequence[Stage], image_id: str
    ) -> tuple[str, Accept, Following] | None:
        """Lead to the state of a stage, on top of an image that has those before; `Following`."""
        if index == len(stages):
            return None
        parts = self._parts_on(stage := stages[index], image_id, "the state below it")
        if UNSHARED in parts.get("the seed", ""):
            return None
        accept = partial(self._accept, f"{label}#{index}", stage, parts)
        return _key(parts), accept, partial(self._following, label, index + 1, stages)

    # --------------------------------------------------------------- find a state

    def _find(self, key: str, base: Image, label: str, stage: Stage) -> tuple[State | None, str]:
        """Return a state with unchanged facts, or None and the reason."""
        reason = ""
        for state in self._states.candidates(key):
            if self._fresh_since is not None and state.made_at < self._fresh_since:
                reason = reason or "--containers-fresh"
                continue
            try:
                change = facts.change(state.facts["uses"], self._root)
                float(state.facts["seconds"])
            except (LookupError, TypeError, AttributeError, ValueError, OverflowError):
                change = "its record is malformed"  # of a file of states, from anywhere
            if change is None and state.base == base.id:
                self._states.used(state)
                self._say(label, stage, state, reused=True)
                return state, ""
            reason = reason or change or "the image below it has changed"
        return None, reason

    def _obtain(
        self,
        key: str,
        label: str,
        base: Image,
        stage: Stage,
        parts: Mapping[str, str],
        make: Callable[[], State],
        then: Following,
    ) -> State:
        """Return a state that another machine has made, else make it and offer it to others."""
        shared = self._states.shared
        if shared is None or UNSHARED in parts.get("the seed", ""):
            return make()
        accept = partial(self._accept, label, stage, parts)
        state: State | None = shared.obtain(key, base, accept, then)
        if state is not None:
            self._say(label, stage, state, reused=True)
            return state
        try:
            state = make()
        except BaseException:
            shared.give_up(key)
            raise
        # Not one whose inputs have changed meanwhile, which nobody could use.
        if accept(state.facts, state.made_at) is None:
            shared.give_up(key)
        else:
            shared.offer(state, base, accept)
        return state

    def _accept(
        self, label: str, stage: Stage, parts: Mapping[str, str], record: Any, made_at: float
    ) -> dict[str, Any] | None:
        """Return the facts of a state of another machine; None if it is of no use here."""
        if self._fresh_since is not None and made_at < self._fresh_since:
            return None
        uses = facts.adopt(record["uses"], self._root, stage.inputs)
        own, seconds = self._record(label, stage, parts), float(record["seconds"])
        return None if uses is None else {**own, "uses": uses, "seconds": seconds}

    def _record(self, label: str, stage: Stage, parts: Mapping[str, str]) -> dict[str, Any]:
        """Return the facts of a state that are known before it is made."""
        return {
            "label": self._labelled(label),
            "title": stage.title,
            "place": self._place(stage),
            "parts": _digests(parts),
            "lasts": UNSHARED not in parts.get("the seed", ""),
        }

    def _difference(self, label: str, stage: Stage, parts: Mapping[str, str]) -> str:
        """Return the difference from the newest state of the same seed and fixture."""
        _, _, opaque = parts.get("the seed", "").partition(f"{UNSHARED} ")
        if opaque:
            return f"it holds {opaque}, which has no comparable value, so no run can reuse it"
        now = _digests(parts)
        for state in self._states.all():
            earlier = state.facts
            if (earlier.get("label"), earlier.get("title")) != (self._labelled(label), stage.title):
                continue
            before = earlier.get("parts")
            if earlier.get("place") == self._place(stage) and isinstance(before, dict):
                differing = [name for name in now if now[name] != before.get(name)]
                if differing:
                    verb = "have" if len(differing) > 1 else "has"
                    return f"{' and '.join(differing)} {verb} changed"
        return "it is made for the first time"

    def _place(self, stage: Stage) -> str | None:
        """Return the file of the function of a seed; a script has its path in the title."""
        if stage.module is None:
            return None
        return stage.module.removeprefix(self._top)

    def _labelled(self, label: str) -> str:
        return f"{os.path.realpath(self._root)}::{label}"

    def _say(
        self, label: str, stage: Stage, state: State, *, reused: bool, reason: str = ""
    ) -> None:
        fixture, place = label.rpartition("#")[0], self._place(stage)
        title = stage.title if place is None else f"{stage.title} ({place})"
        seconds = state.facts["seconds"]
        self._tell(Outcome(fixture, title, reused, reason, seconds, state.made_at))

    # --------------------------------------------------------------- make a state

    def _make(
        self,
        key: str,
        label: str,
        base: Image,
        stage: Stage,
        parts: Mapping[str, str],
        name: str,
        reason: str,
    ) -> State:
        began, began_at = time.monotonic(), time.time_ns()
        trace = UsageTrace(self._root, self._ignored(), [self._states.home])
        network = self._engine.create_network()
        try:
            spec = replace(stage.spec, image=base)
            run = self._engine.run
            with run(spec, name=name, network=network, wait_ready=False) as container:
                try:
                    container.wait_ready()
                    self._act(container, stage, trace)
                    uses = self._uses(stage, trace)
                    facts.distrust_later_than(uses, began_at, self._root)
                    _end(container, stage)
                except ContainersError as error:
                    if isinstance(error, SeedError):
                        self._note_failure(key, error)
                    self._tell_failed(container)
                    raise
                record = {
                    **self._record(label, stage, parts),
                    "uses": uses,
                    "seconds": round(time.monotonic() - began, 3),
                }
                state: State = self._states.keep(key, base, container.freeze, record)
        finally:
            network.remove()
        self._say(label, stage, state, reused=False, reason=reason)
        self._trim(state)
        return state

    def _uses(self, stage: Stage, trace: UsageTrace) -> dict[str, Any]:
        # Modules of the project are loaded while a service prepares itself, but have no part in it.
        if not stage.traced:
            return facts.declared(stage.inputs, self._root)
        return facts.gather(trace, stage.inputs, self._root, stage.module)

    def _act(self, container: Container, stage: Stage, trace: UsageTrace) -> None:
        failure: BaseException | None = None
        try:
            with time_limit(stage.limit_s, container, stage.title):
                if stage.traced:
                    with recording(trace):
                        stage.act(container)
                else:
                    stage.act(container)
        except SeedError:
            raise
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # pytest.fail() and sys.exit() do not raise an Exception
            if _is_skip_or_exit(error):
                raise
            failure = error
        code = container.exit_code
        if code is not None:
            raise _failed(
                f"{stage.title}: the container ended with exit code {code} meanwhile",
                container,
                failure,
                exit_code=code,
            )
        if failure is not None:
            if isinstance(failure, ContainersError) and not stage.traced:
                raise failure
            cause = f"{type(failure).__name__}: {failure}".rstrip(": ")
            raise _failed(f"{stage.title} failed: {cause}", container, failure)

    def _note_failure(self, key: str, error: SeedError) -> None:
        self._failed[key] = error
        if self._run is None:
            return
        with suppress(ContainersError):
            failure = {"message": error.message, "test": self._test()}
            self._states.note_failure(key, self._run, failure)

    def _raise_if_failed(self, key: str, stage: Stage) -> None:
        """Raise the error that another process of this run has recorded."""
        if self._run is None:
            return
        failure = self._states.failure_of(key, self._run)
        if failure is not None:
            error = SeedError(failure["message"])
            tell_of_first(error, failure["test"])
            self._failed[key] = error
            raise error

    def _trim(self, new: State) -> None:
        """Remove old states.

        Each change of an input makes another state with the same key: some of them are kept. States
        of the fixture with other keys may belong to seeds of other modules: they are kept while
        they are in use. A state of a seed without a comparable value can never be reused.
        """
        states, now = self._states.all(), time.time()
        siblings = [state for state in states if state.facts.get("label") == new.facts["label"]]
        same = [
            state
            for state in siblings
            if state.key == new.key or not state.facts.get("lasts", True)
        ]
        others = [state for state in siblings if state.key != new.key][_KEPT_OTHERS:]
        old = [*same[_KEPT:], *(state for state in others if state.used_at < now - _RECENT_S)]
        old += [
            state for state in states if state.used_at < now - _KEPT_S and "label" in state.facts
        ]
        self._states.drop(old)


def _limit_of(stage: Stage) -> str:
    return "" if stage.limit_s is None else f"; its time limit is {stage.limit_s:g} s"


def _is_skip_or_exit(error: BaseException) -> bool:
    """Return True for an exception that skips tests or ends the run; pytest is not imported."""
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    if "_pytest.outcomes.OutcomeException" in kinds:
        return type(error).__name__ in ("Skipped", "XFailed")
    return bool(kinds & {"_pytest.outcomes.Exit", "unittest.case.SkipTest"})


def nothing(container: Container) -> None:
    """Do nothing: the `act` of a stage that is over when its container is ready."""


def _end(container: Container, stage: Stage) -> None:
    """End the container so that its files are complete."""
    if not stage.clean and not container.heeds_stop_signal():
        container.kill()  # a stop would wait for the time limit with the same result
        container.wait()
        return
    code = container.stop(_STOP_S)
    if stage.clean and code not in (0, 143, 130):
        raise _failed(
            f"{stage.title}: the server did not end cleanly afterwards, but with exit code {code}",
            container,
            None,
            exit_code=code,
        )


def _failed(
    message: str, container: Container, cause: BaseException | None, **data: Any
) -> SeedError:
    tail = str(container.logs()).splitlines()[-_TAIL_LINES:]
    shown = (
        "; its last output:\n" + "\n".join(f"    {harmless(line)}" for line in tail) if tail else ""
    )
    error = SeedError(message + shown, log_tail=tail, **data)
    error.__cause__ = cause
    return error


def _digests(parts: Mapping[str, str]) -> dict[str, str]:
    """Return digests of the parts, which may contain passwords."""
    return {name: hashlib.sha256(part.encode()).hexdigest() for name, part in parts.items()}


def _key(parts: Mapping[str, str]) -> str:
    document = json.dumps([_FORMAT, dict(parts)], sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()


def _spec_digest(spec: ContainerSpec) -> str:
    """Return a digest of the fields that may affect files; the environment may hold secrets."""
    values = [
        (field.name, repr(getattr(spec, field.name)))
        for field in fields(spec)
        if field.name not in ("image", "ready", "ready_timeout_s", "log_limit_bytes", "ports")
    ]
    return hashlib.sha256(repr(values).encode()).hexdigest()
