"""Who we are to a registry: the files and helpers that Docker and Podman have.

Looked at in this order; the first that knows the registry counts:

1. ``DOCKER_AUTH_CONFIG``: the text of a config.json;
2. ``$DOCKER_CONFIG/config.json``, else ``~/.docker/config.json``;
3. ``$REGISTRY_AUTH_FILE``;
4. ``containers/auth.json`` below ``$XDG_RUNTIME_DIR``, then below ``~/.config``.

In each: ``credHelpers`` of the registry, ``credsStore``, ``auths`` (docker-credential-helpers;
containers-auth.json(5)). A helper that is not installed is told of and passed over: a config.json
that came from another machine must not keep public images from being pulled. Nothing of a secret
is ever part of a message.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_containers.model.errors import RegistryError, hide_frames

__tracebackhide__ = hide_frames

_log = logging.getLogger(__name__)

HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_KEYS = (_HUB_KEY, "index.docker.io", HUB, "registry-1.docker.io")
_HELPER_TIMEOUT_S = 60
_IDENTITY_TOKEN_USER = "<token>"
_NOT_FOUND = "credentials not found"


@dataclass(frozen=True, slots=True)
class Credential:
    """The data of a login: a user's password, or a token that stands for both.

    Attributes:
        source: Where it was found, for messages.
        identity_token: Exchanged for access tokens (OAuth2's refresh token).
        registry_token: Sent as it is.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    source: str = ""

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")


def find(
    registry: str, repository: str, environ: Mapping[str, str] = os.environ
) -> Credential | None:
    """Find the credential for a repository; None if there is none.

    Args:
        registry: As in references: ``"docker.io"``, ``"127.0.0.1:5000"``.
        repository: Its namespace may have credentials of its own (containers-auth.json(5)).

    Raises:
        RegistryError: A file is broken, or a helper failed.
    """
    for config, source in _configs(environ):
        credential = _in_config(config, source, registry, repository, environ)
        if credential is not None:
            return credential
    return None


def _configs(environ: Mapping[str, str]) -> Iterator[tuple[Mapping[str, Any], str]]:
    if content := environ.get("DOCKER_AUTH_CONFIG"):
        yield _parse(content, "DOCKER_AUTH_CONFIG"), "DOCKER_AUTH_CONFIG"
    for path in dict.fromkeys(_paths(environ)):
        try:
            content = path.read_text()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise RegistryError(
                f"credentials: {path} cannot be read: {error}; permit it, or set DOCKER_CONFIG "
                "to another directory"
            ) from None
        yield _parse(content, str(path)), str(path)


def _paths(environ: Mapping[str, str]) -> Iterator[Path]:
    home = Path(environ["HOME"]) if environ.get("HOME") else Path("/nonexistent")
    docker = environ.get("DOCKER_CONFIG")
    yield (Path(docker) if docker else home / ".docker") / "config.json"
    if chosen := environ.get("REGISTRY_AUTH_FILE"):
        yield Path(chosen)
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers" / "auth.json"
    config = environ.get("XDG_CONFIG_HOME", "")
    base = Path(config) if config.startswith("/") else home / ".config"
    yield base / "containers" / "auth.json"


def _parse(content: str, source: str) -> Mapping[str, Any]:
    try:
        config = json.loads(content) if content.strip() else {}
    except ValueError as error:
        # The error would show the text around it; there may be a password there.
        line = getattr(error, "lineno", 0)
        raise RegistryError(f"credentials: {source} is not JSON (line {line}); mend it") from None
    if not isinstance(config, dict):
        raise RegistryError(f"credentials: {source} is not a JSON object; mend it")
    return config


def _in_config(
    config: Mapping[str, Any],
    source: str,
    registry: str,
    repository: str,
    environ: Mapping[str, str],
) -> Credential | None:
    keys = _HUB_KEYS if registry == HUB else (registry, f"https://{registry}")
    helpers = config.get("credHelpers")
    if isinstance(helpers, dict):
        for key in keys:
            if isinstance(helper := helpers.get(key), str) and helper:
                if _program_of(helper, source, environ) is None:
                    _warn_of_missing(helper, source)
                    break
                return _from_helper(helper, key, source, environ)
    helper = config.get("credsStore")
    if isinstance(helper, str) and helper:
        server = _HUB_KEY if registry == HUB else registry
        if _program_of(helper, source, environ) is None:
            _warn_of_missing(helper, source)
        elif (stored := _from_helper(helper, server, source, environ)) is not None:
            return stored
    auths = config.get("auths")
    if not isinstance(auths, dict):
        return None
    for key in (*_namespaces(registry, repository), *keys):
        credential = _from_entry(auths.get(key), source, key)
        if credential is not None:
            return credential
    for key, entry in auths.items():  # written with a scheme or an old path
        if _host_of(key) == registry:
            credential = _from_entry(entry, source, key)
            if credential is not None:
                return credential
    return None


def _namespaces(registry: str, repository: str) -> Iterator[str]:
    """Yield ``host/a/b``, ``host/a``: the longest first."""
    parts = repository.split("/")
    for count in range(len(parts), 0, -1):
        yield "/".join([registry, *parts[:count]])


def _host_of(key: str) -> str:
    """Return the host of ``https://host/v1/`` and the like; a namespaced key is no host."""
    rest = key.removeprefix("https://").removeprefix("http://")
    host, _, path = rest.partition("/")
    return host if path.strip("/") in ("", "v1", "v2") else ""


def _from_entry(entry: Any, source: str, key: str) -> Credential | None:
    if not isinstance(entry, dict):
        return None

    def value_of(name: str) -> str:
        value = entry.get(name)
        return value if isinstance(value, str) else ""

    user, password = value_of("username"), value_of("password")
    if value_of("auth"):
        try:
            decoded = base64.b64decode(value_of("auth"), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise RegistryError(
                f"credentials: {source}: the entry of {key!r} is not Base64; log in again"
            ) from None
        user, colon, password = decoded.partition(":")
        if not colon:
            raise RegistryError(
                f"credentials: {source}: the entry of {key!r} is not USER:PASSWORD; log in again"
            )
        password = password.rstrip("\0")
    credential = Credential(
        user, password, value_of("identitytoken"), value_of("registrytoken"), source
    )
    if user == _IDENTITY_TOKEN_USER and not credential.identity_token:
        credential = Credential(user, "", password, credential.registry_token, source)
    usable = credential.identity_token or credential.registry_token or credential.username
    return credential if usable else None


def _program_of(helper: str, source: str, environ: Mapping[str, str]) -> str | None:
    """Return the path of a helper; None if it is not installed."""
    if "/" in helper:  # a file should not choose any program; Docker looks in PATH only as well
        raise RegistryError(f"credentials: {helper!r} in {source} is a path, not a helper's name")
    return shutil.which(f"docker-credential-{helper}", path=environ.get("PATH", ""))


@functools.cache  # once for each, however many images are pulled
def _warn_of_missing(helper: str, source: str) -> None:
    _log.warning(
        "credentials: docker-credential-%s, which %s names, is not installed; registries are asked "
        "without it. Install it, or take it out of that file",
        helper,
        source,
    )


def _from_helper(
    helper: str, server: str, source: str, environ: Mapping[str, str]
) -> Credential | None:
    """Ask ``docker-credential-HELPER get``, as Docker does.

    Returns:
        None when it knows nothing of that server.
    """
    program = f"docker-credential-{helper}"
    doing = f"credentials of {server} from {program} (named in {source})"
    path = _program_of(helper, source, environ)
    assert path is not None
    try:
        done = subprocess.run(
            [path, "get"],
            input=server.encode(),
            capture_output=True,
            timeout=_HELPER_TIMEOUT_S,
            env=dict(environ),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RegistryError(f"{doing}: no answer within {_HELPER_TIMEOUT_S} s") from None
    except OSError as error:
        raise RegistryError(f"{doing}: {error.strerror}") from None
    if done.returncode:
        output = (done.stdout + done.stderr).decode(errors="replace").strip()
        if _NOT_FOUND in output:
            return None
        raise RegistryError(f"{doing}: exit code {done.returncode}: {output[:300]}; log in again")
    try:
        answer = json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        raise RegistryError(f"{doing}: its answer is not understood; it must be JSON") from None
    if user == _IDENTITY_TOKEN_USER:
        return Credential(user, identity_token=secret, source=program)
    return Credential(user, secret, source=program)
