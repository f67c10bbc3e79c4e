"""The recipes of the documentation: fixtures with options that exist, although not run here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "recipes.md"


def test_every_recipe_is_a_fixture_with_options_that_exist() -> None:
    page = PAGE.read_text()
    _, *recipes = re.split(r"^## ", page, flags=re.MULTILINE)
    assert [recipe for recipe in recipes if "= pc.container_fixture(" not in recipe] == []
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    # In a process of its own, since an endpoint sets variables.
    command = [sys.executable, "-W", "error", "-c", "\n".join(blocks)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
