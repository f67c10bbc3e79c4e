"""Python code in a Docker container that has the programs of this machine."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest_containers as pc

FLAGS = [f"--security-opt={option}=unconfined" for option in ("seccomp", "systempaths", "apparmor")]
"""What the documentation tells to start a container with."""

InDocker = Callable[..., subprocess.CompletedProcess[str]]


def root_of_this_machine() -> bytes:
    """A tar of what an image needs when this machine's programs are mounted into it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("etc", "proc", "sys", "dev", "usr", "run", "var", "tmp", "root", "home"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(info)
        for name in ("bin", "sbin", "lib", "lib64"):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(info)
        for name in ("group", "nsswitch.conf", "ld.so.cache", "alternatives"):
            tar.add(f"/etc/{name}", f"etc/{name}")
        for name, text in {
            "passwd": "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534::/:\n"
            "postgres:x:105:105::/var/lib/postgresql:/bin/sh\n",
            "subuid": "user:100000:65536\n", "subgid": "user:100000:65536\n",
        }.items():  # fmt: skip
            info = tarfile.TarInfo(f"etc/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def in_docker(docker: Callable[..., str], folder: Path) -> InDocker:
    """Return a function that runs Python code there.

    Args:
        docker: The client of a daemon whose socket is ``s`` in `folder`.
        folder: Gets the archive of the container's own files.
    """
    archive = folder / "root.tar"
    archive.write_bytes(root_of_this_machine())
    docker("import", str(archive), "box:1")
    package = Path(pc.__file__).parents[1]
    shown = dict.fromkeys(["/usr", sys.prefix, sys.base_prefix, *map(os.path.realpath, sys.path)])
    shown |= {str(package): None}
    paths = [path for path in shown if os.path.isdir(path)]
    tops = [path for path in paths if not any(path.startswith(f"{other}/") for other in paths)]
    volumes = [f"--volume={path}:{path}:ro" for path in tops]

    def run(
        code: str, *arguments: str, options: list[str] = FLAGS
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", f"--host=unix://{folder}/s", "run", "--rm", *volumes,
             f"--env=PYTHONPATH={os.pathsep.join(paths)}", "--env=HOME=/tmp", "--workdir=/tmp", *options,
             "box:1", sys.executable, "-c", code, *arguments],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run
