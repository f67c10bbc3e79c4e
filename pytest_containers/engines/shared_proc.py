"""Whether containers of the native engine share the /proc of the place where tests run."""

from __future__ import annotations

WORDS = (
    "native engine: shares the /proc of this place, where programs see its processes, and other "
    "numbers than their own"
)
"""What the header of a test run and the report of a failure say of it."""
_ALWAYS_EMPTY = ("/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd", "/proc/openprom")
"""Directories of a proc that are there for mounts, and hide nothing."""


def native_words() -> str:
    """Return the native engine in words, with what this place does not give it."""
    return WORDS if is_shared() else "native engine"


def is_shared(mountinfo: str = "/proc/self/mountinfo") -> bool:
    """Return True if the kernel lets no user namespace here mount a proc of its own.

    That needs one here that is whole and writable (mount_too_revealing in fs/namespace.c): not
    that of a container of Docker or Kubernetes, where parts are masked. Nothing is started; the
    facts of a run have what it met.
    """
    try:
        with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.split(" ") for line in file]
    except OSError:
        return False
    whole = {
        fields[0]: fields[4].rstrip("/")
        for fields in lines
        if fields[3] == "/"
        and fields[fields.index("-") + 1] == "proc"
        and "ro" not in fields[5].split(",")
    }
    for _, parent, _, _, path, *_ in lines:
        place = whole.get(parent)
        if place is not None and f"/proc{path.removeprefix(place)}" not in _ALWAYS_EMPTY:
            del whole[parent]
    return not whole
