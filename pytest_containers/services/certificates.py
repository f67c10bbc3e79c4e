"""Certificates for ``tls=True``: an authority of this user, and what it signs for servers.

The authority is made once, by the program ``openssl``, and kept in the cache of the user: stored
states contain certificates that it has signed, and settings that are read before a server runs can
name the file of its certificate. Nothing trusts it that was not given this file. Its key never
leaves the directory, which only the user may read.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pytest_containers.model.container import Container
from pytest_containers.model.errors import ContainersError, UnsupportedError, hide_frames
from pytest_containers.model.home import HOME_VARIABLE, default_home
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.steps import maker_of, run_step
from pytest_containers.state.warm import Stage

__tracebackhide__ = hide_frames

_VALID_DAYS = 400
_RENEWED_AFTER_S = 300 * 24 * 3600.0  # a state may still be used 30 days later
_CERTIFICATE, _KEY = "ca.crt", "ca.key"
FOLDER = "/etc/tls"
AUTHORITY, CERTIFICATE, KEY = f"{FOLDER}/ca.crt", f"{FOLDER}/server.crt", f"{FOLDER}/server.key"
"""Files in the container."""
_LOOPBACK = ("DNS:localhost", "IP:127.0.0.1", "IP:0:0:0:0:0:0:0:1")
_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
# Python 3.13 checks by RFC 5280: an authority needs its key usage, a server both key identifiers.
_CONFIG = """\
[req]
distinguished_name = name
prompt = no
[name]
CN = {name}
[authority]
basicConstraints = critical, CA:true, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {alternatives}
"""


class ServerCertificate(NamedTuple):
    """A certificate with its private key and the certificate of its authority, all in PEM."""

    authority: bytes
    certificate: bytes
    key: bytes


def authority_file() -> Path:
    """Return the file with the certificate of the authority, which is made if necessary.

    Raises:
        UnsupportedError: This machine lacks ``openssl``.
        ContainersError: The directory is not usable, or others may read it.
    """
    folder = _folder()
    path = folder / _CERTIFICATE
    if _is_fresh(path):
        return path
    with _locked(folder, fcntl.LOCK_EX):
        if not _is_fresh(path):
            _make_authority(folder)
    return path


def authority_digest() -> str:
    """Return a digest of the certificate of the authority."""
    return hashlib.sha256(authority_file().read_bytes()).hexdigest()


def server_certificate(names: Sequence[str]) -> ServerCertificate:
    """Make a certificate for a server.

    Args:
        names: Its host names, besides localhost, 127.0.0.1 and ::1.
    """
    authority = authority_file()
    alternatives = ", ".join([*_LOOPBACK, *(f"DNS:{name}" for name in names)])
    with (
        _locked(authority.parent, fcntl.LOCK_SH),
        tempfile.TemporaryDirectory(dir=authority.parent) as work,
    ):
        config = Path(work, "config")
        config.write_text(_CONFIG.format(name=(*names, "localhost")[0], alternatives=alternatives))
        request = ["-config", "config", "-keyout", "server.key", "-out", "server.csr"]
        _openssl(work, "req", "-new", *_CURVE, *request)
        signing = ["-CA", str(authority), "-CAkey", str(authority.with_name(_KEY))]
        serial = f"0x{secrets.token_hex(16)}"
        _openssl(
            work, "x509", "-req", "-in", "server.csr", "-out", "server.crt", *signing,
            "-set_serial", serial, "-days", str(_VALID_DAYS), "-sha256",
            "-extfile", "config", "-extensions", "server",
        )  # fmt: skip
        return ServerCertificate(
            authority.read_bytes(),
            Path(work, "server.crt").read_bytes(),
            Path(work, "server.key").read_bytes(),
        )


def stage(spec: ContainerSpec, names: Sequence[str], user: str) -> Stage:
    """Return the stage that makes a certificate and writes it into a container, below `FOLDER`.

    Args:
        spec: The container.
        names: See `server_certificate`.
        user: The owner of the key; empty is root.
    """
    return Stage(
        "certificate",
        spec,
        lambda container: _install(container, names, user),
        {"the authority": authority_digest(), "the names": repr(names)},
        traced=False,
    )


def _install(container: Container, names: Sequence[str], user: str) -> None:
    made = server_certificate(names)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work, "tls")
        folder.mkdir(mode=0o755)
        for path, data in zip((AUTHORITY, CERTIFICATE, KEY), made, strict=True):
            (folder / os.path.basename(path)).write_bytes(data)
        (folder / os.path.basename(KEY)).chmod(0o600)
        container.copy_in(folder, FOLDER)
    if user:
        maker = maker_of(container, user)
        run_step(container, "the key of the certificate", ["chown", user, KEY], user=maker)


def _folder() -> Path:
    folder = default_home() / "tls"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise ContainersError(
            f"tls=True keeps its certificate authority in {folder}, which cannot be made: "
            f"{error.strerror}; set {HOME_VARIABLE} to another place",
            path=str(folder),
        ) from None
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise ContainersError(
            f"tls=True keeps the key of its certificate authority in {folder}, which others may "
            "use too; make it your own with mode 0700, or remove it",
            path=str(folder),
        )
    return folder


@contextmanager
def _locked(folder: Path, operation: int) -> Iterator[None]:
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, operation)
        yield


def _is_fresh(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < _RENEWED_AFTER_S
    except FileNotFoundError:
        return False


def _make_authority(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as work:
        Path(work, "config").write_text(
            _CONFIG.format(name="pytest-containers", alternatives=", ".join(_LOOPBACK))
        )
        _openssl(
            work, "req", "-new", "-x509", *_CURVE, "-config", "config", "-extensions", "authority",
            "-days", str(_VALID_DAYS), "-sha256", "-keyout", _KEY, "-out", _CERTIFICATE,
        )  # fmt: skip
        # The certificate is last: whoever sees it has the key as well.
        for name in (_KEY, _CERTIFICATE):
            os.replace(Path(work, name), folder / name)


def _openssl(work: str, *words: str) -> None:
    try:
        done = subprocess.run(
            ["openssl", *words],
            cwd=work,
            env={**os.environ, "OPENSSL_CONF": os.path.join(work, "config")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        raise UnsupportedError(
            "tls=True needs the program openssl on this machine, which makes the certificates: "
            "apt install openssl",
            missing=["openssl"],
        ) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ContainersError(f"tls=True: openssl {words[0]} failed: {lines[-1]}")
