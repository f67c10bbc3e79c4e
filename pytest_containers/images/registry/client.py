"""A registry's HTTP interface (distribution-spec 1.1): requests, retries, errors, manifests."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3 import exceptions

from pytest_containers.images import manifest as manifests
from pytest_containers.images.registry import credentials
from pytest_containers.images.registry.auth import Authenticator, parse_challenges
from pytest_containers.images.registry.settings import Place, is_loopback
from pytest_containers.images.registry.transport import (
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    Transport,
    cause_of,
)
from pytest_containers.model.engine_options import RegistrySettings
from pytest_containers.model.errors import (
    ImageError,
    ImageNotFoundError,
    RegistryError,
    hide_frames,
)
from pytest_containers.model.harmless import quoted

__tracebackhide__ = hide_frames

TRIES = 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 60.0
_TRY_AGAIN = (429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_MAX_ANSWER_BYTES = 64 << 10
ACCEPT = ", ".join((*manifests.MANIFEST_TYPES, *manifests.INDEX_TYPES))
_TAGS_AT_ONCE, _MAX_PAGES = 1000, 1000
_next_page = re.compile(r'<[^>]*/tags/list\?([^>]*)>\s*;\s*rel="?next')
_log = logging.getLogger(__name__)

Response = urllib3.BaseHTTPResponse


class Document(NamedTuple):
    """A manifest or index as a registry has it."""

    media_type: str
    digest: str
    data: bytes


class Registry:
    """A registry, or a mirror of one. Thread-safe; connections are kept and used again.

    Args:
        place: Where it is.
        settings: Of the project.
        pause: Waits between tries, in seconds.
        tries: How often to send a request that the registry cannot answer now.
        timeouts_s: For a connection, and for an answer.
    """

    def __init__(
        self,
        place: Place,
        settings: RegistrySettings,
        pause: Callable[[float], None] = time.sleep,
        *,
        tries: int = TRIES,
        timeouts_s: tuple[float, float] = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
    ) -> None:
        self.name: str = place.host
        self._prefix = place.prefix
        self.pause: Callable[[float], None] = pause
        self._tries = tries
        self.transport: Transport = Transport(place, settings, timeouts_s)
        self._auth = Authenticator(
            place.host,
            lambda repository: credentials.find(place.host, repository, settings.environ),
            self._fetch_token,
            self.transport.may_send,
        )

    # ---------------------------------------------------------------- manifests

    def manifest(self, repository: str, reference: str, *, shown: str) -> Document:
        """Fetch a manifest or index, verified where `reference` is a digest.

        Args:
            reference: A tag or digest.
            shown: What the user called it, for messages.

        Raises:
            ImageNotFoundError: There is none.
        """
        response = self.request(
            "GET", repository, f"manifests/{reference}", headers={"Accept": ACCEPT}, shown=shown
        )
        with _closing(response):
            data = self._body(response, manifests.MAX_DOCUMENT_BYTES, shown)
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        algorithm = reference.partition(":")[0] if ":" in reference else "sha256"
        digest = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
        if ":" in reference and digest != reference:
            raise ImageError(
                f"{shown}: registry {self.name} answers for {reference} with something else "
                f"({digest}); it is damaged, ask its owner",
                expected=reference,
                actual=digest,
            )
        return Document(media_type, digest, data)

    def digest_of(self, repository: str, tag: str, *, shown: str) -> str | None:
        """Ask which digest a tag stands for now; None where the registry does not say."""
        response = self.request(
            "HEAD", repository, f"manifests/{tag}", headers={"Accept": ACCEPT}, shown=shown
        )
        with _closing(response):
            return response.headers.get("Docker-Content-Digest")

    def delete_manifest(self, repository: str, digest: str, *, shown: str) -> None:
        """Remove a manifest or an index, with its tags.

        Raises:
            ImageNotFoundError: There is none.
            RegistryError: The registry does not do that (405), or denies it.
        """
        path, actions = f"manifests/{digest}", "pull,push,delete"
        finish(self.request("DELETE", repository, path, shown=shown, actions=actions))

    def tags(self, repository: str, *, shown: str) -> list[str]:
        """List the tags of a repository, all pages of it; none if there is no such repository."""
        path, found = f"tags/list?n={_TAGS_AT_ONCE}", []
        for _ in range(_MAX_PAGES):
            response = self.request("GET", repository, path, shown=shown, accept=(404,))
            with _closing(response):
                data = self._body(response, manifests.MAX_DOCUMENT_BYTES, shown)
            if response.status == 404:
                break
            tags = manifests.document(data, shown).get("tags") or []
            if not isinstance(tags, list):
                raise ImageError(f"{shown}: registry {self.name} gives no list of tags")
            found += [str(tag) for tag in tags]
            following = _next_page.search(response.headers.get("Link", ""))
            if following is None:
                break
            path = f"tags/list?{following[1]}"
        return found

    def ping(self, repository: str, *, shown: str) -> None:
        """Return once the registry has answered, whatever it says.

        Raises:
            RegistryError: It cannot be reached.
        """
        finish(self._send("GET", self._prefix + repository, "tags/list?n=1", None, {}, None, shown))

    @property
    def base(self) -> str:
        """``scheme://host``, once it was reached."""
        return next(self.transport.bases())

    def small_blob(self, repository: str, digest: str, size_bytes: int, *, shown: str) -> bytes:
        """Fetch a config; the caller verifies it."""
        response = self.request("GET", repository, f"blobs/{digest}", shown=shown)
        with _closing(response):
            return self._body(response, min(size_bytes, manifests.MAX_DOCUMENT_BYTES), shown)

    def _body(self, response: Response, limit: int, shown: str) -> bytes:
        try:
            data = response.read(limit + 1)
            while len(data) <= limit and (chunk := response.read(limit + 1 - len(data))):
                data += chunk
        except exceptions.HTTPError as error:
            raise self._unreachable(error, shown) from None
        if len(data) > limit:
            raise ImageError(
                f"{shown}: registry {self.name} answers with more than {limit} bytes "
                "where a short document must be"
            )
        return data

    # ----------------------------------------------------------------- requests

    def request(
        self,
        method: str,
        repository: str,
        path: str,
        *,
        shown: str,
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Any] | bytes | None = None,
        actions: str = "pull",
        also: Sequence[str] = (),
        accept: Sequence[int] = (),
    ) -> Response:
        """Send a request; log in, wait and follow redirects as asked for.

        Args:
            path: Below the repository: ``"blobs/sha256:…"``; or a whole URL.
            body: Bytes, or a function that gives a fresh reader for each try.
            actions: Of the scope: ``"pull"`` or ``"pull,push"``.
            also: More scopes.
            accept: Statuses, beside those below 300, that are answers and no errors.

        Returns:
            The answer, whose body is not read yet; close it.

        Raises:
            ImageNotFoundError: 404.
            RegistryError: Anything else.
        """
        repository = self._prefix + repository
        scopes = [f"repository:{repository}:{actions}", *also]
        authorization = self._auth.header(repository, scopes)
        logins = attempt = 0
        while True:
            response = self._send(
                method, repository, path, authorization, headers or {}, body, shown
            )
            status = response.status
            if status < 300 or status in accept:
                return response
            message = _text(response)
            if status == 401 and logins < 2:
                # Twice: a token may have expired, or have been for less than this needs.
                logins += 1
                self._auth.forget(scopes)
                challenges = parse_challenges(response.headers.getlist("WWW-Authenticate"))
                authorization = self._auth.answer(repository, scopes, challenges)
                if authorization is not None:
                    continue
            attempt += 1
            if status not in _TRY_AGAIN or attempt == self._tries:
                raise self._refused(status, message, repository, shown)
            wait_s = _pause_of(response, attempt)
            if wait_s > _LONGEST_PAUSE_S:
                message = f"try again in {wait_s:.0f} s"
                raise self._refused(status, message, repository, shown)
            _log.info("registry %s answered %s; trying again in %s s", self.name, status, wait_s)
            self.pause(wait_s)

    def _send(
        self,
        method: str,
        repository: str,
        path: str,
        authorization: str | None,
        headers: Mapping[str, str],
        body: Any,
        shown: str,
    ) -> Response:
        """Try a request once: over https or http, and through redirects."""
        sent = {"User-Agent": "pytest-containers", "Accept-Encoding": "identity", **headers}
        problem: Exception | None = None
        for base in self.transport.bases():
            url = path if "://" in path else f"{base}/v2/{repository}/{path}"
            for again in (True, False):
                try:
                    response = self._follow(method, url, base, sent, authorization, body, shown)
                except exceptions.HTTPError as error:
                    problem = error
                    # A connection that was kept may have been closed meanwhile.
                    # (Not so for a part of an upload: nobody knows whether it was taken.)
                    stale = isinstance(error, exceptions.ProtocolError) and method != "PATCH"
                    if again and stale:
                        continue
                    break
                self.transport.settle(base)
                return response
            if not _is_plain_http(problem):
                break
        assert problem is not None
        raise self._unreachable(problem, shown) from None

    def _follow(
        self,
        method: str,
        url: str,
        base: str,
        headers: Mapping[str, str],
        authorization: str | None,
        body: Any,
        shown: str,
    ) -> Response:
        for _ in range(_MAX_REDIRECTS + 1):
            sent = dict(headers)
            # Elsewhere, whoever that is gets no credentials of ours (CVE-2020-15157).
            if authorization is not None and _origin(url) == _origin(base):
                sent["Authorization"] = authorization
            data = body() if callable(body) else body
            response = self.transport.request(method, url, headers=sent, body=data)
            target = response.headers.get("Location")
            if response.status not in _REDIRECTS or target is None:
                return response
            _text(response)
            try:
                goal = urljoin(url, target)
                parts = urlsplit(goal)
            except ValueError:
                words = f"{self.name} redirects to {quoted(target)}, which is no address"
                raise RegistryError(f"{shown}: registry {words}", registry=self.name) from None
            plain = parts.scheme == "http" and not is_loopback(parts.netloc)
            if parts.scheme not in ("http", "https") or (plain and url.startswith("https:")):
                raise RegistryError(
                    f"{shown}: registry {self.name} redirects to {parts.scheme}://{parts.netloc}, "
                    "which is not encrypted; it is not followed",
                    registry=self.name,
                )
            url = goal
        raise RegistryError(
            f"{shown}: registry {self.name} redirects more than {_MAX_REDIRECTS} times",
            registry=self.name,
        )

    def _fetch_token(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        sent = {"User-Agent": "pytest-containers", "Accept-Encoding": "identity", **headers}
        try:
            for attempt in range(1, self._tries + 1):
                response = self.transport.request(method, url, headers=sent, body=body)
                if response.status not in _TRY_AGAIN or attempt == self._tries:
                    break
                wait_s = _pause_of(response, attempt)
                _text(response)
                if wait_s > _LONGEST_PAUSE_S:
                    break
                self.pause(wait_s)
            with _closing(response):
                return response.status, response.read(manifests.MAX_DOCUMENT_BYTES)
        except exceptions.HTTPError as error:
            parts = urlsplit(url)
            where = f"token server {parts.scheme}://{parts.netloc}"
            raise self._unreachable(error, where) from None

    # ------------------------------------------------------------------- errors

    def _refused(self, status: int, message: str, repository: str, shown: str) -> ImageError:
        explanation = _messages(message)
        data: dict[str, Any] = {
            "registry": self.name,
            "repository": repository,
            "status": status,
        }
        tail = f" (it says: {explanation})" if explanation else ""
        credential = self._auth.credential(repository)
        if status == 404:
            return ImageNotFoundError(
                f"{shown}: registry {self.name} has no such image or tag in {repository!r}{tail}; "
                "look for a typo",
                **data,
            )
        if status in (401, 403):
            login = (
                f"with the login of {credential.source}"
                if credential is not None
                else "without a login"
            )
            advice = (
                "look whether its password is right and its owner may use it"
                if credential is not None
                else "look for a typo (many registries say this of names they do not have), or log "
                f"in with `docker login {self.name}`"
            )
            return RegistryError(
                f"{shown}: registry {self.name} denies access to {repository!r} {login} "
                f"({status}){tail}; {advice}",
                **data,
            )
        if status == 429:
            advice = (
                "wait, log in for a higher limit, or use a mirror"
                if credential is None
                else "wait, or use a mirror"
            )
            return RegistryError(
                f"{shown}: registry {self.name} limits requests (429){tail}; {advice}", **data
            )
        retried = f" after {self._tries} tries" if status in _TRY_AGAIN else ""
        return RegistryError(
            f"{shown}: registry {self.name} answered {status}{retried} for {repository!r}{tail}; "
            "try later, or ask its owner",
            **data,
        )

    def _unreachable(self, error: Exception, shown: str) -> RegistryError:
        cause = cause_of(error)
        advice = "look at the name, the network and the proxy settings"
        if "CERTIFICATE_VERIFY_FAILED" in cause or "certificate" in cause.lower():
            folder = f"certs.d/{self.transport.host}"
            advice = (
                f"put its authority's certificate into ~/.config/containers/{folder}/ca.crt "
                f"(or /etc/docker/{folder}/ca.crt), or declare the registry insecure"
            )
        elif _is_plain_http(error):
            cause = "it speaks plain http there"
            advice = f"if that is meant, declare it: --containers-insecure-registry {self.name}"
        return RegistryError(
            f"{shown}: registry {self.name} cannot be reached: {cause}; {advice}",
            registry=self.name,
        )

    def close(self) -> None:
        """Close idle connections."""
        self.transport.close()


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _is_plain_http(error: Exception | None) -> bool:
    """Check whether the server answered without TLS."""
    cause = cause_of(error) if error is not None else ""
    return any(
        sign in cause
        for sign in (
            "WRONG_VERSION_NUMBER",
            "RECORD_LAYER_FAILURE",
            "UNEXPECTED_EOF",
            "wrong version",
        )
    ) or (isinstance(error, exceptions.SSLError) and "EOF occurred" in cause)


def _pause_of(response: Response, attempt: int) -> float:
    """Return seconds to wait: as the registry asks for, else 2 doubling to 60."""
    asked = response.headers.get("Retry-After", "").strip()
    if asked.isdecimal():
        return float(asked[:20])
    if asked:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            when = email.utils.parsedate_to_datetime(asked)
            left_s: float = when.timestamp() - time.time()
            return left_s if left_s > 0 else 0.0
    return min(_FIRST_PAUSE_S * float(1 << (attempt - 1)), _LONGEST_PAUSE_S)


def _text(response: Response) -> str:
    """Read a short body; the connection is free for the next request afterwards."""
    with _closing(response), contextlib.suppress(exceptions.HTTPError):
        return response.read(_MAX_ANSWER_BYTES).decode(errors="replace")
    return ""


def _messages(body: str) -> str:
    """Join the messages of a registry's errors (spec: error codes) to a line of plain text."""
    try:
        listed = json.loads(body)["errors"]
        messages = "; ".join(str(error.get("message") or error.get("code")) for error in listed)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        messages = "" if "<" in body else body
    return "".join(letter for letter in " ".join(messages.split()) if letter.isprintable())[:300]


def finish(response: Response) -> None:
    """Finish with a response of which only the headers matter."""
    _text(response)


@contextlib.contextmanager
def _closing(response: Response) -> Any:
    try:
        yield response
    finally:
        # What was read whole goes back to the pool; of anything else nobody knows the rest.
        if getattr(response, "length_remaining", None) in (0, None):
            response.release_conn()
        else:
            response.close()
