"""Jobs of the image store, which unpack layers and delete them, for this engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pytest_containers.model.errors import ImageError

if TYPE_CHECKING:
    from pytest_containers.runtime.wire.operations.job import Job

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from pytest_containers.engines.process.inside import run_job; run_job()"
)


class LocalInside:
    """The implementation of `images.Inside` without namespaces, for root."""

    @property
    def id_map_class(self) -> str:
        """The class of id maps: that of the identity ``root``."""
        from pytest_containers.runtime.identity import choose

        try:
            return choose("root").id_map_class
        except OSError as error:
            raise ImageError(f"the ids of containers cannot be known: {error.strerror}") from None

    def call(
        self, job: Job[Any, Any], args: Mapping[str, Any], fds: Sequence[int]
    ) -> dict[str, Any]:
        """Run a job in an interpreter of its own; see `images.Inside`."""
        from pytest_containers.runtime.wire.message import Message, pack, unpack

        request = {
            "function": job.function,
            "args": pack(args)[0] if isinstance(args, Message) else dict(args),
            "search_path": [path for path in sys.path if path],
            "fds": list(fds),
        }
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _BOOT, str(Path(__file__).parents[3])],
            input=json.dumps(request).encode(),
            capture_output=True,
            pass_fds=fds,
            check=False,
        )
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise ImageError(
                f"{job.function} ended with exit code {done.returncode}: {''.join(last)}"
            ) from None
        if "error" in answer:
            message, data = answer["error"]
            raise ImageError.from_data(message, data)
        result: Any = answer["result"]
        if issubclass(job.result, Message):
            result = unpack(job.result, result)
        return cast("dict[str, Any]", result)


def run_job() -> None:
    """Run the job that standard input describes; write its result to standard output."""
    from pytest_containers.runtime.wire.message import fields_of, unpack
    from pytest_containers.runtime.wire.operations.job import argument_type

    request = json.load(sys.stdin)
    answers = os.dup(1)
    os.dup2(2, 1)
    os.umask(0o022)
    answer: dict[str, Any]
    try:
        sys.path.extend(path for path in request["search_path"] if path not in sys.path)
        module, _, name = request["function"].partition(":")
        __import__(module)
        function = getattr(sys.modules[module], name)
        kind = argument_type(function)
        args = request["args"] if kind is None else unpack(kind, request["args"])
        answer = {"result": function(args, request["fds"])}
    except Exception as error:  # noqa: BLE001 - goes to the caller
        data = getattr(error, "data", None)
        answer = {"error": [str(error), data if isinstance(data, dict) else {}]}
    with open(answers, "w") as file:
        json.dump(answer, file, default=fields_of)
