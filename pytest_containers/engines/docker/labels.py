"""The labels by which everything that the engine makes in a daemon is found again."""

from __future__ import annotations

PREFIX = "io.github.pytest-containers"
RUN = f"{PREFIX}.run"
"""The run; its value is removed with the run."""
PROCESS = f"{PREFIX}.process"
"""The process of the run that made it, unless all processes share it."""
NAME = f"{PREFIX}.name"
STATE = f"{PREFIX}.state"
"""The key of a stored state, on its image."""
FACTS = f"{PREFIX}.facts"
"""The facts of a stored state, as JSON in Base64: builders differ in what they do to quotes."""
BASE = f"{PREFIX}.base"
"""The id of the image below a state."""
MADE_AT = f"{PREFIX}.made-at"
ALL = (RUN, PROCESS, NAME, STATE, FACTS, BASE, MADE_AT)
