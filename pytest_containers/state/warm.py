"""Images with state on top: made once, found again while nothing of what made them has changed."""

from __future__ import annotations

import hashlib
import json
import os
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_containers.errors import ContainersError, SeedError, hide_frames
from pytest_containers.images.image import Image
from pytest_containers.images.states import State, States, failure_path
from pytest_containers.spec import ContainerSpec
from pytest_containers.state import facts
from pytest_containers.state.limit import time_limit
from pytest_containers.state.seeds import UNSHARED
from pytest_containers.state.trace import Trace, recording

if TYPE_CHECKING:
    from pytest_containers.engines.native import Container, Engine

__tracebackhide__ = hide_frames

_FORMAT = 1  # counts changes of what is frozen
_STOP_S = 60.0
_DAY_S = 24 * 3600.0
_KEPT, _KEPT_S = 5, 30 * _DAY_S  # of one seed, whose inputs change; of any
_KEPT_OTHERS, _RECENT_S = 20, 7 * _DAY_S  # seeds of one fixture; beyond that, those used lately
_TAIL_LINES = 10


@dataclass(frozen=True, slots=True)
class Stage:
    """A step on the way to a state: a container is started, changed, ended and frozen.

    Attributes:
        title: For people: ``seed load_schema``.
        spec: The container; its image is what the stages before it have made.
        act: Changes it; gets the container when it is ready.
        parts: What it is known by beside image and spec, by name.
        traced: Whether `act` is the user's code, whose inputs are to be found out.
        inputs: More of them.
        module: The file that the user's code is in.
        clean: Whether its program ends by itself when it is asked to, as servers do.
        limit_s: How long `act` may take.
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a stage.

    Attributes:
        label: Of the fixture.
        title: Of the stage, with the file that a function is in.
        reused: Whether it was there already.
        reason: Why it was not.
        seconds: What making it took, now or then.
        made_at: Seconds since the epoch.
    """

    label: str
    title: str
    reused: bool
    reason: str
    seconds: float
    made_at: float


class Warm:
    """The states that a test run uses.

    Args:
        engine: Makes containers.
        root: The project.
        fresh_since: Only states that are not older are used; None is any.
        run: A name that all processes of a test run share: a seed that failed in one of them fails
            in the others without being tried again. None is no others.
        tell: Gets every `Outcome`.
        ignored: Tells the variables that are different in every run and so are no inputs.
    """

    def __init__(
        self,
        engine: Engine,
        root: Path,
        *,
        fresh_since: float | None = None,
        run: str | None = None,
        tell: Callable[[Outcome], None] = lambda outcome: None,
        ignored: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._engine = engine
        self._root = root
        self._top = os.path.join(os.path.realpath(root), "")
        self._fresh_since = fresh_since
        self._run = run
        self._tell = tell
        self._ignored = ignored
        self._found: dict[str, Image] = {}
        self._failed: dict[str, SeedError] = {}

    @property
    def _states(self) -> States:
        return self._engine.images.states

    def image(self, label: str, base: Image, stages: Sequence[Stage], *, name: str) -> Image:
        """`base` with all stages on top, each made if it is not there.

        However many processes ask at once, one makes a stage and the others wait for it.

        Args:
            label: Of whom it is for, the same in every run: to tell what has changed.
            name: Of the containers in which it is made.

        Raises:
            SeedError: The user's code failed, did not end, or left the server dead; nothing of it
                is kept.
            ContainersError: A container could not be made.
        """
        for index, stage in enumerate(stages):
            base = self._stage(f"{label}#{index}", base, stage, name)
        return base

    def known(self, base: Image, stages: Sequence[Stage]) -> Image | None:
        """The same, if this process has asked for all of it before; costs microseconds."""
        image: Image | None = base
        for stage in stages:
            image = self._found.get(_key(self._parts(stage, image))) if image is not None else None
        return image

    def _stage(self, label: str, base: Image, stage: Stage, name: str) -> Image:
        parts = self._parts(stage, base)
        key = _key(parts)
        if key in self._found:
            return self._found[key]
        if key in self._failed:
            error = self._failed[key]
            raise type(error)(error.message, **error.data) from error.__cause__
        found, reason = self._find(key, base, label, stage)
        if found is None:
            store = self._engine.images.store
            with store.lock(f"state-{key[:32]}"):
                found, reason = self._find(key, base, label, stage)
                if found is None:
                    self._raise_if_failed(key, stage)
                    reason = reason or self._why(label, stage, parts)
                    found = self._make(key, label, base, stage, parts, name, reason)
        image = self._states.image(base, found)
        if image is None:
            raise ContainersError(f"{stage.title}: its state was removed meanwhile; try again")
        self._found[key] = image
        return image

    def _parts(self, stage: Stage, base: Image) -> dict[str, str]:
        """What the stage is known by, without the project's place: other checkouts may use it."""
        below = "what it builds on" if base.base_id else "the image"
        own = {name: text.replace(self._top, "") for name, text in stage.parts.items()}
        return {below: base.id, "the spec": _spec_digest(stage.spec), **own}

    # ---------------------------------------------------------------- to find

    def _find(self, key: str, base: Image, label: str, stage: Stage) -> tuple[State | None, str]:
        """A state that may be used, else why there is none."""
        reason = ""
        for state in self._states.candidates(key):
            if self._fresh_since is not None and state.made_at < self._fresh_since:
                reason = reason or "--containers-fresh"
                continue
            change = facts.change(state.facts["uses"], self._root)
            if change is None and state.base == base.id:
                self._states.used(state)
                self._say(label, stage, state, reused=True)
                return state, ""
            reason = reason or change or "what is below it has changed"
        return None, reason

    def _why(self, label: str, stage: Stage, parts: Mapping[str, str]) -> str:
        """What differs from the newest state of the same seed of the same fixture."""
        _, _, held = parts.get("the seed", "").partition(f"{UNSHARED} ")
        if held:
            return f"it holds {held}, which cannot be told from another, so no run finds it again"
        now = _digests(parts)
        for state in self._states.all():
            known = state.facts
            if known.get("label") != self._labelled(label) or known["title"] != stage.title:
                continue
            if known.get("place") == self._place(stage):
                differing = [name for name in now if now[name] != known["parts"].get(name)]
                if differing:
                    verb = "have" if len(differing) > 1 else "has"
                    return f"{' and '.join(differing)} {verb} changed"
        return "it is made for the first time"

    def _place(self, stage: Stage) -> str | None:
        """Where a seed's function is; of a script it is in the title."""
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

    # ---------------------------------------------------------------- to make

    def _make(
        self, key: str, label: str, base: Image, stage: Stage, parts: Mapping[str, str], name: str,
        reason: str,
    ) -> State:  # fmt: skip
        began, began_at = time.monotonic(), time.time_ns()
        store = self._engine.images.store
        trace = Trace(self._root, self._ignored(), [store.home])
        network = self._engine.create_network()
        try:
            spec = replace(stage.spec, image=base)
            with self._engine.run(spec, name=name, network=network) as container:
                try:
                    self._act(container, stage, trace)
                    module = stage.module
                    uses = facts.gather(trace, stage.inputs, self._root, module)
                    facts.distrust_later_than(uses, began_at, self._root)
                    _end(container, stage)
                except SeedError as error:
                    self._note_failure(key, error)
                    raise
                known = {
                    "label": self._labelled(label), "title": stage.title,
                    "place": self._place(stage), "parts": _digests(parts),
                    "lasts": UNSHARED not in parts.get("the seed", ""), "uses": uses,
                    "seconds": round(time.monotonic() - began, 3),
                }  # fmt: skip
                state = self._states.keep(key, base, container.freeze, known)
        finally:
            network.remove()
        self._say(label, stage, state, reused=False, reason=reason)
        self._trim(state)
        return state

    def _act(self, container: Container, stage: Stage, trace: Trace) -> None:
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
        except BaseException as error:  # pytest.fail() and sys.exit() raise no Exception
            if _is_no_failure(error):
                raise
            failure = error
        code = container.exit_code
        if code is not None:
            raise _failed(
                f"{stage.title}: the container ended with exit code {code} meanwhile",
                container, failure, exit_code=code,
            )  # fmt: skip
        if failure is not None:
            if isinstance(failure, ContainersError) and not stage.traced:
                raise failure
            said = f"{type(failure).__name__}: {failure}".rstrip(": ")
            raise _failed(f"{stage.title} failed: {said}", container, failure)

    def _note_failure(self, key: str, error: SeedError) -> None:
        self._failed[key] = error
        if self._run is None:
            return
        cause = error.__cause__
        told = "".join(traceback.format_exception(cause)) if cause is not None else ""
        with suppress(OSError, ContainersError):
            store = self._engine.images.store
            path = failure_path(store, key, self._run)
            text = json.dumps({"message": error.message, "traceback": told})
            store.write_atomically(path, text.encode())

    def _raise_if_failed(self, key: str, stage: Stage) -> None:
        """Another process of this run has tried it."""
        if self._run is None:
            return
        store = self._engine.images.store
        found = store.read_json(failure_path(store, key, self._run))
        if found is not None:
            error = SeedError(f"{found['message']} (in another worker)\n{found['traceback']}")
            self._failed[key] = error
            raise error

    def _trim(self, new: State) -> None:
        """Let old ones go.

        Of one key all but some, since each change of an input makes one. Other keys of the fixture
        may be those of other modules' seeds, which the next run wants again: they stay while they
        are used. But nobody finds again what was made by a seed that is not known by value.
        """
        every, now = self._states.all(), time.time()
        mine = [one for one in every if one.facts.get("label") == new.facts["label"]]
        same = [one for one in mine if one.key == new.key or not one.facts.get("lasts", True)]
        others = [one for one in mine if one.key != new.key][_KEPT_OTHERS:]
        old = [*same[_KEPT:], *(one for one in others if one.used_at < now - _RECENT_S)]
        old += [one for one in every if one.used_at < now - _KEPT_S and "label" in one.facts]
        self._engine.images.drop_states(old)


def _is_no_failure(error: BaseException) -> bool:
    """Whether the tests are to be skipped, or the run ended; pytest's, which need not be there."""
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    if "_pytest.outcomes.OutcomeException" in kinds:
        return type(error).__name__ in ("Skipped", "XFailed")
    return bool(kinds & {"_pytest.outcomes.Exit", "unittest.case.SkipTest"})


def nothing(container: Container) -> None:
    """For a stage that is over when its container is ready."""


def _end(container: Container, stage: Stage) -> None:
    """End it so that its files are whole."""
    if not stage.clean and not container.heeds_stop_signal():
        container.kill()  # it would wait for the time limit and leave the same
        container.wait()
        return
    code = container.stop(_STOP_S)
    if stage.clean and code not in (0, 143, 130):
        raise _failed(
            f"{stage.title}: the server did not end cleanly afterwards, but with exit code {code}",
            container, None, exit_code=code,
        )  # fmt: skip


def _failed(
    message: str, container: Container, cause: BaseException | None, **data: Any
) -> SeedError:
    tail = str(container.logs()).splitlines()[-_TAIL_LINES:]
    shown = "; its last output:\n" + "\n".join(f"    {line}" for line in tail) if tail else ""
    error = SeedError(message + shown, log_tail=tail, **data)
    error.__cause__ = cause
    return error


def _digests(parts: Mapping[str, str]) -> dict[str, str]:
    """Enough to tell whether they have changed: they may hold passwords."""
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in parts.items()}


def _key(parts: Mapping[str, str]) -> str:
    text = json.dumps([_FORMAT, dict(parts)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _spec_digest(spec: ContainerSpec) -> str:
    """Of all that may matter to the files; a digest, since the environment may hold secrets."""
    known = [
        (one.name, repr(getattr(spec, one.name)))
        for one in fields(spec)
        if one.name not in ("image", "ready", "ready_timeout_s", "log_limit_bytes", "ports")
    ]
    return hashlib.sha256(repr(known).encode()).hexdigest()
