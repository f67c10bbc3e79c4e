"""Copies of trees between host and container, as tar streams that jobs of the run make and take."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

from pytest_containers.errors import ContainersError
from pytest_containers.runtime.client import Client

_PACK = "pytest_containers.runtime.inside.archive:pack"
_UNPACK = "pytest_containers.runtime.inside.archive:unpack"
