"""Authorization: challenges (RFC 7235), and the tokens that registries give for them.

Distribution's token authentication: a 401 names a realm, a service and a scope; the realm gives a
token for them, to nobody in particular, for a password, or for an identity token (OAuth2).
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlencode, urlsplit

from pytest_containers.images.registry.credentials import Credential
from pytest_containers.model.errors import RegistryError, hide_frames

__tracebackhide__ = hide_frames

_CLIENT_ID = "pytest-containers"
_LEAST_LIFETIME_S = 60.0
"""A token that names no lifetime, or a shorter one, is good for this long (the specification)."""
_LONGEST_LIFETIME_S = 86400.0
_MARGIN_S = 5.0
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_parameter = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*(?:,|\Z)')
_scheme = re.compile(rf"\s*,*\s*({_TOKEN})(?:\s+|\s*(?=,)|\s*\Z)")


class Challenge(NamedTuple):
    """A challenge of a WWW-Authenticate header: a scheme in lower case, and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(values: Sequence[str]) -> list[Challenge]:
    """Parse all challenges of a response, in order; unknown syntax ends a header's list."""
    challenges: list[Challenge] = []
    for header in values:
        position = 0
        while match := _scheme.match(header, position):
            position = match.end()
            parameters: dict[str, str] = {}
            while parameter := _parameter.match(header, position):
                name, quoted, plain = parameter.groups()
                value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                parameters.setdefault(name.lower(), value)
                position = parameter.end()
            challenges.append(Challenge(match[1].lower(), parameters))
    return challenges


class Fetch(Protocol):
    """A function that sends a request to a realm and returns status and body."""

    def __call__(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]: ...


class Authenticator:
    """Authorization headers for one registry. Thread-safe.

    Args:
        registry: For messages.
        credential: Finds one for a repository.
        fetch: Talks to realms.
        may_send: Whether a URL is safe to send a password to.
        clock: Seconds.
    """

    def __init__(
        self,
        registry: str,
        credential: Callable[[str], Credential | None],
        fetch: Fetch,
        may_send: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._credential = credential
        self._fetch = fetch
        self._may_send = may_send
        self._clock = clock
        self._lock = threading.RLock()
        self._basic: set[str] = set()
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}
        self._known: dict[str, Credential | None] = {}

    def credential(self, repository: str) -> Credential | None:
        """Look up the credential for a repository, once."""
        with self._lock:
            if repository not in self._known:
                self._known[repository] = self._credential(repository)
            return self._known[repository]

    def header(self, repository: str, scopes: Sequence[str]) -> str | None:
        """Return the Authorization header that is known to be needed, without a challenge."""
        with self._lock:
            if repository in self._basic:
                credential = self.credential(repository)
                return credential.basic if credential else None
            token, until = self._tokens.get(tuple(sorted(scopes)), ("", 0.0))
            return f"Bearer {token}" if token and self._clock() < until else None

    def answer(
        self, repository: str, scopes: Sequence[str], challenges: Sequence[Challenge]
    ) -> str | None:
        """Return an Authorization header for a 401, or None when there is nothing to offer.

        Raises:
            RegistryError: The realm refused, or is not to be trusted.
        """
        with self._lock:
            credential = self.credential(repository)
            for challenge in challenges:
                if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                    if credential is not None and credential.registry_token:
                        return f"Bearer {credential.registry_token}"
                    return f"Bearer {self._token(credential, scopes, challenge.parameters)}"
                if challenge.scheme == "basic" and credential is not None and credential.username:
                    self._basic.add(repository)
                    return credential.basic
            return None

    def _token(
        self, credential: Credential | None, scopes: Sequence[str], asked: Mapping[str, str]
    ) -> str:
        requested_scopes = list(dict.fromkeys([*scopes, *asked.get("scope", "").split()]))
        realm = asked["realm"]
        try:
            scheme = urlsplit(realm).scheme
        except ValueError:
            scheme = ""
        if scheme not in ("http", "https"):
            raise self._error(f"its token realm {realm!r} is not an address")
        secret = credential is not None and (credential.username or credential.identity_token)
        if secret and not self._may_send(realm):
            raise self._error(
                f"its token realm {realm} is not encrypted, and a password will not be sent there"
            )
        status, body = self._ask(credential, realm, asked.get("service", ""), requested_scopes)
        if status in (401, 403):
            login = (
                f"user {credential.username!r} (from {credential.source})"
                if credential is not None
                else "nobody is logged in"
            )
            raise self._error(
                f"its token server refused access ({status}), {login}; "
                f"log in with `docker login {self._registry}`",
                status=status,
            )
        if status != 200:
            raise self._error(f"its token server {realm} answered {status}", status=status)
        token, lifetime_s = _parse_token(body)
        if not token:
            raise self._error(f"its token server {realm} gave no token")
        self._tokens[tuple(sorted(scopes))] = (token, self._clock() + lifetime_s - _MARGIN_S)
        return token

    def _ask(
        self, credential: Credential | None, realm: str, service: str, scopes: Sequence[str]
    ) -> tuple[int, bytes]:
        if credential is not None and credential.identity_token:
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": _CLIENT_ID,
                "scope": " ".join(scopes),
                "refresh_token": credential.identity_token,
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return self._fetch("POST", realm, headers=headers, body=urlencode(form).encode())
        query = [("scope", scope) for scope in scopes]
        query += [("service", service)] if service else []
        headers = {}
        if credential is not None and credential.username:
            query.append(("account", credential.username))
            headers["Authorization"] = credential.basic
        joint = "&" if urlsplit(realm).query else "?"
        url = f"{realm}{joint}{urlencode(query)}" if query else realm
        return self._fetch("GET", url, headers=headers, body=None)

    def forget(self, scopes: Sequence[str]) -> bool:
        """Drop a token that was refused; return whether there was one."""
        with self._lock:
            return self._tokens.pop(tuple(sorted(scopes)), None) is not None

    def _error(self, why: str, **data: Any) -> RegistryError:
        return RegistryError(f"registry {self._registry}: {why}", registry=self._registry, **data)


def _parse_token(body: bytes) -> tuple[str, float]:
    """Return a token and the seconds for which it is good."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return "", 0.0
    if not isinstance(answer, dict):
        return "", 0.0
    token = answer.get("token") or answer.get("access_token") or ""
    lifetime = answer.get("expires_in")
    seconds = lifetime if isinstance(lifetime, (int, float)) else 0.0
    return str(token), float(min(max(seconds, _LEAST_LIFETIME_S), _LONGEST_LIFETIME_S))
