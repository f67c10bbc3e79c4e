"""What a Dockerfile says, as the build takes it: numbers, documents, escapes, places."""

from __future__ import annotations

import pytest
from helpers.builds import Build

import pytest_containers as pc


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("COPY --chown=² Dockerfile /", "--chown=²: ² is not an id: expected 0 to 4294967294"),
        ("COPY --chown=4294967295 Dockerfile /", "4294967295 is not an id"),
        ("COPY --chown=app:² Dockerfile /", "² is not an id"),
        ("COPY --from=² /a /", "'²' is"),
        ("RUN --mount=type=cache,target=/c,uid=² true", "uid=²: expected a number"),
    ],
)
def test_only_a_number_is_one(build: Build, instruction: str, message: str) -> None:
    with pytest.raises(pc.BuildError) as caught:
        build(f"FROM base:1\n{instruction}\n")
    assert message in caught.value.message
