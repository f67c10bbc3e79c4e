"""`images`, `load` and `import`: look at the store and fill it from files."""

from __future__ import annotations

import argparse
from typing import Any


def add_commands(commands: Any) -> None:
    """Add the commands of the image store to the subparsers."""
