"""The message codecs of pyroute2, without the rest of it.

`import pyroute2` costs 180 ms and 30 MB (it loads IPRoute, NDB, DHCP …). The codecs are plain
classes below `pyroute2.netlink.rtnl`; with a bare module in the package's place they alone are
imported, for 45 ms and 6 MB. That is done here and nowhere else, and only in the network helper,
a process of its own: a process with user code must get the real package.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Sequence
from typing import Any, NamedTuple


class Codecs(NamedTuple):
    """pyroute2's classes for the four kinds of messages that networks are made of."""

    link: Any
    address: Any
    route: Any
    rule: Any


def load(search_path: Sequence[str]) -> Codecs:
    """Import the codecs.

    Args:
        search_path: Directories that may hold the package ``pyroute2``.

    Raises:
        ImportError: None of them does.
    """
    for directory in search_path:
        package = os.path.join(directory, "pyroute2")
        if os.path.isdir(os.path.join(package, "netlink")):
            break
    else:
        raise ImportError("no directory of the search path holds pyroute2", name="pyroute2")
    if "pyroute2" not in sys.modules:
        bare = types.ModuleType("pyroute2")
        bare.__path__ = [package]
        sys.modules["pyroute2"] = bare

    return Codecs(_codec("ifinfmsg"), _codec("ifaddrmsg"), _codec("rtmsg"), _codec("fibmsg"))


def _codec(name: str) -> Any:
    return getattr(importlib.import_module(f"pyroute2.netlink.rtnl.{name}"), name)
