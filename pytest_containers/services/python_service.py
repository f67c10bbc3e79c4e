"""The base of servers that are Python packages of the environment that runs the tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import ClassVar
from urllib.parse import quote

from pytest_containers.model.errors import UnsupportedError, hide_frames
from pytest_containers.model.image import Image
from pytest_containers.services.service import Service

__tracebackhide__ = hide_frames


class PythonService(Service):
    """A service whose server is a Python package, which ``host:`` shows to the container.

    Attributes:
        modules: The modules that the server imports; the first one has its version.
        packages: The requirements that `pip` installs.
    """

    reference: ClassVar[str] = "host:"
    modules: ClassVar[tuple[str, ...]] = ()

    def source(self) -> str | Image:
        """Return the image, or the reference of the image to fetch.

        Raises:
            UnsupportedError: The environment of the tests lacks a module that ``host:`` needs.
        """
        if not isinstance(self.image, str) or not self.image.startswith("host:"):
            return self.image
        missing = [name for name in self.modules if find_spec(name) is None]
        if missing:
            raise UnsupportedError(
                f"{type(self).__name__} of host: needs the module {' and '.join(missing)} in the "
                f"environment of the tests, {sys.prefix}: pip install {self._requirements()}, or "
                "name an image",
                missing=missing,
            )
        own_query = self.image.partition(":")[2].lstrip("?")
        shown = [f"path={quote(path)}" for path in self._folders()]
        query = [*shown, *([own_query] if own_query else [])]
        return f"host:?{'&'.join(query)}" if query else "host:"

    def _requirements(self) -> str:
        return " ".join(f"'{word}'" if "[" in word else word for word in self.packages.split())

    def python(self, image: Image) -> str:
        """Return the interpreter: that of the tests, or ``python3`` of an image."""
        return sys.executable if image.mounts else "python3"

    def python_env(self, image: Image) -> dict[str, str]:
        """Return the environment with which the interpreter finds the modules at once."""
        env = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        folders = self._folders() if image.mounts else []
        return env | ({"PYTHONPATH": os.pathsep.join(folders)} if folders else {})

    def _folders(self) -> list[str]:
        """Return the directories of packages that ``host:`` does not show by itself.

        Those are of a user (``~/.local``) or come from a ``.pth`` file.
        """
        prefixes = ("/usr", sys.prefix, sys.base_prefix)
        shown = tuple(f"{place}/" for each in prefixes for place in (each, os.path.realpath(each)))
        folders = dict.fromkeys([*self._places(), *filter(_has_packages, sys.path)])
        return [path for path in folders if not path.startswith(shown)]

    def _places(self) -> Iterator[str]:
        for name in self.modules:
            spec = find_spec(name)
            if spec is not None and spec.origin:
                file = os.path.realpath(spec.origin)
                is_package = spec.submodule_search_locations is not None
                yield os.path.dirname(os.path.dirname(file) if is_package else file)

    def version_command(self) -> Sequence[str]:
        """Return the command that prints the version."""
        code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
        return [self.python(self.container.image), "-c", code, self.modules[0]]


def _has_packages(path: str) -> bool:
    return os.path.basename(path) in ("site-packages", "dist-packages") and os.path.isdir(path)
