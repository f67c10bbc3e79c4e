"""What a machine has to offer for a way out of containers to other machines."""

from __future__ import annotations

import os

NAME_SERVER = "10.0.2.3"
"""Where a container with a way out reaches the host's name server."""

TUN = "/dev/net/tun"


def way_out() -> tuple[str, str]:
    """Return the program that connects containers to other machines; or why there is none."""
    import shutil

    program = shutil.which("slirp4netns") or shutil.which("pasta")
    if program is None:
        return "", "neither slirp4netns nor pasta is installed"
    if not os.access(TUN, os.R_OK | os.W_OK):
        return "", f"{program} needs {TUN}, which may not be opened"
    return program, ""
