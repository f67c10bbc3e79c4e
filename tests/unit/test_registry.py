"""Parts of the registry client that need no registry."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pytest_containers as pc
from pytest_containers.images import manifest as manifests
from pytest_containers.images.decompress import decompressed
from pytest_containers.images.formats.compress import gzipped
from pytest_containers.images.manifest import Descriptor, Platform, choose
from pytest_containers.images.reference import parse_reference
from pytest_containers.images.registry import client, credentials
from pytest_containers.images.registry.auth import Challenge, _parse_token, parse_challenges
from pytest_containers.images.registry.settings import (
    Place,
    is_loopback,
    places,
    substitute,
)
from pytest_containers.images.registry.transport import Transport, _proxy_for
from pytest_containers.model.display import Bars, Lines
from pytest_containers.model.engine_options import RegistrySettings, registry_settings
from pytest_containers.model.sizes import format_size
from pytest_containers.model.transfer import ImageTransfer, Part


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (['Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"'],
         [Challenge("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:x:pull,push"})]),
        (['Basic realm="a \\"b\\", c"'], [Challenge("basic", {"realm": 'a "b", c'})]),
        (["Negotiate, Basic realm=x, Bearer realm=y"],
         [Challenge("negotiate", {}), Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y"})]),
        (["Basic realm=x", "Bearer realm=y"],
         [Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y"})]),
        ([""], []),
    ],
)  # fmt: skip
def test_challenges(values: list[str], expected: list[Challenge]) -> None:
    assert parse_challenges(values) == expected


@given(st.text(max_size=200))
def test_any_challenge_is_read_in_time(text: str) -> None:
    parse_challenges([text])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"token": "a", "expires_in": 300}', ("a", 300.0)),
        (b'{"access_token": "b", "expires_in": 5}', ("b", 60.0)),
        (b'{"token": "a", "access_token": "b"}', ("a", 60.0)),
        (b'{"expires_in": "soon"}', ("", 60.0)),
        (b"[]", ("", 0.0)),
        (b"<html>", ("", 0.0)),
    ],
)
def test_tokens_live_for_a_minute_at_least(body: bytes, expected: tuple[str, float]) -> None:
    assert _parse_token(body) == expected


class Answer:
    """As much of an answer as `_pause_of` looks at."""

    def __init__(self, **headers: str) -> None:
        self.headers = {key.replace("_", "-"): value for key, value in headers.items()}


def test_pauses_double_to_a_minute() -> None:
    answer: Any = Answer()
    assert [client._pause_of(answer, attempt) for attempt in range(1, 8)] == [
        2,
        4,
        8,
        16,
        32,
        60,
        60,
    ]
    asked: Any = Answer(Retry_After="7")
    assert client._pause_of(asked, 1) == 7
    past: Any = Answer(Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")
    assert client._pause_of(past, 1) == 0
    nonsense: Any = Answer(Retry_After="soon")
    assert client._pause_of(nonsense, 2) == 4


def test_what_registries_say_is_one_line() -> None:
    said = json.dumps({"errors": [{"code": "DENIED", "message": "no\n\x1b[31mway"}, {"code": "X"}]})
    assert client._messages(said) == "no [31mway; X"
    assert client._messages("<html>") == ""


# ------------------------------------------------------------------ credentials


def entry(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_the_hub_has_a_name_of_its_own(tmp_path: Path) -> None:
    config = json.dumps({"auths": {"https://index.docker.io/v1/": entry("me", "pa:ss")}})
    found = credentials.find("docker.io", "library/redis", {"DOCKER_AUTH_CONFIG": config})
    assert found is not None
    assert (found.username, found.password) == ("me", "pa:ss")
    assert credentials.find("other.test", "x", {"DOCKER_AUTH_CONFIG": config}) is None
    assert "pa:ss" not in repr(found)


def test_a_password_is_for_its_host_only() -> None:
    config = json.dumps({"auths": {"registry.test": entry("me", "secret")}})
    for other in ("registry.test:5000", "evil-registry.test", "registry.test.evil", "test"):
        assert credentials.find(other, "x", {"DOCKER_AUTH_CONFIG": config}) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{secret", r"is not JSON \(line 1\)"),
        ("[]", "is not a JSON object"),
        ('{"auths": {"r.test": {"auth": "*secret*"}}}', "is not Base64"),
        ('{"auths": {"r.test": {"auth": "c2VjcmV0"}}}', "is not USER:PASSWORD"),
        ('{"credsStore": "../evil"}', "is a path, not a helper's name"),
    ],
)
def test_broken_configs_are_told_without_their_secrets(text: str, words: str) -> None:
    with pytest.raises(pc.RegistryError, match=words) as caught:
        credentials.find("r.test", "x", {"DOCKER_AUTH_CONFIG": text, "PATH": ""})
    assert "secret" not in str(caught.value)


# -------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost:5000", True), ("127.0.0.1", True), ("127.1.2.3:80", True), ("[::1]:5000", True),
     ("a.localhost", True), ("10.0.0.1", False), ("localhost.evil.test", False), ("127.evil", False)],
)  # fmt: skip
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_only_loopback_and_declared_registries_are_asked_in_plain_http() -> None:
    settings = RegistrySettings(insecure=frozenset({"old.test"}))
    assert list(Transport(Place("new.test"), settings).bases()) == ["https://new.test"]
    assert list(Transport(Place("old.test"), settings).bases()) == [
        "https://old.test",
        "http://old.test",
    ]
    assert list(Transport(Place("localhost:1"), settings).bases())[-1] == "http://localhost:1"
    assert list(Transport(Place("docker.io"), settings).bases()) == ["https://registry-1.docker.io"]
    with pytest.raises(pc.SettingsError, match="plain http is for insecure registries only"):
        Transport(Place("new.test", scheme="http"), settings)


def test_mirrors() -> None:
    settings = registry_settings(
        [], [("docker.io", "m.test/hub"), ("docker.io", "http://127.0.0.1:5")], ""
    )
    assert places(settings, "docker.io") == [
        Place("m.test", "hub/"), Place("127.0.0.1:5", "", "http"), Place("docker.io"),
    ]  # fmt: skip
    assert places(settings, "other.test") == [Place("other.test")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("redis", "m.test/hub/redis:latest"), ("team/app:1", "m.test/hub/team/app:1"),
     ("docker.io/library/redis:7", "m.test/hub/redis:7"), ("quay.test/redis:7", "quay.test/redis:7")],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["m.test/hub", "m.test/hub/"])
def test_prefix_of_hub_names(name: str, expected: str, prefix: str) -> None:
    environ = {"TESTCONTAINERS_HUB_IMAGE_NAME_PREFIX": prefix}
    settings = registry_settings([], [], "", environ)
    assert substitute(settings, parse_reference(name)).familiar == expected


def test_a_prefix_that_makes_no_name() -> None:
    with pytest.raises(pc.SettingsError, match="hub prefix 'UPPER CASE/' does not make a name"):
        substitute(registry_settings([], [], "UPPER CASE/", {}), parse_reference("redis"))


@pytest.mark.parametrize(
    ("scheme", "host", "environ", "expected"),
    [
        ("https", "r.test", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https", "r.test", {"https_proxy": "p:1"}, "http://p:1"),
        ("http", "r.test", {"HTTPS_PROXY": "http://p:1"}, ""),
        ("https", "r.test", {"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ("https", "r.test:5000", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "r.test"}, ""),
        ("https", "a.r.test", {"HTTPS_PROXY": "http://p:1", "no_proxy": ".r.test"}, ""),
        ("https", "r.test", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, ""),
        ("http", "127.0.0.1:5000", {"HTTP_PROXY": "http://p:1"}, ""),
        ("http", "r.test", {"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, ""),
    ],
)  # fmt: skip
def test_proxies(scheme: str, host: str, environ: dict[str, str], expected: str) -> None:
    assert _proxy_for(scheme, host, environ) == expected


# -------------------------------------------------------------------- manifests


def offered(*platforms: tuple[str, str, str]) -> list[Descriptor]:
    return [
        Descriptor(manifests.OCI_MANIFEST, f"sha256:{number:064}", 1, Platform(*platform))
        for number, platform in enumerate(platforms)
    ]


@pytest.mark.parametrize(
    ("machine", "platforms", "chosen"),
    [
        ("x86_64", [("linux", "arm64", "v8"), ("linux", "amd64", "")], 1),
        ("x86_64", [("linux", "amd64", "v3"), ("linux", "amd64", "v1")], 1),
        ("x86_64", [("linux", "amd64", ""), ("linux", "amd64", "")], 0),
        ("aarch64", [("linux", "arm64", ""), ("linux", "arm64", "v8")], 1),
        ("aarch64", [("linux", "arm", "v7"), ("linux", "arm64", "")], 1),
        ("armv7l", [("linux", "arm", "v5"), ("linux", "arm", "v7"), ("linux", "arm", "v8")], 1),
        ("armv6l", [("linux", "arm", "v7"), ("linux", "arm", "v6")], 1),
    ],
)
def test_platforms(
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    platforms: list[tuple[str, str, str]],
    chosen: int,
) -> None:
    monkeypatch.setattr(manifests.platform, "machine", lambda: machine)
    candidates = offered(*platforms)
    assert choose(candidates, "it") is candidates[chosen]


def test_endless_indexes() -> None:
    data = json.dumps({"schemaVersion": 2, "mediaType": manifests.OCI_INDEX, "manifests": [
        {"mediaType": manifests.OCI_INDEX, "digest": "sha256:" + "0" * 64, "size": 1}]}).encode()  # fmt: skip
    with pytest.raises(pc.ImageError, match="lead to each other"):
        manifests.resolve(data, "sha256:" + "0" * 64, manifests.OCI_INDEX, lambda one: data, "it")


# -------------------------------------------------------------------- gzip, display


@given(st.lists(st.binary(min_size=1, max_size=50_000), max_size=20))
def test_compressing_is_undone(pieces: list[bytes]) -> None:
    data = b"".join(gzipped(pieces))
    assert data == b"".join(gzipped([b"".join(pieces)] if pieces else []))
    rest = [data]
    assert b"".join(decompressed(lambda size: rest.pop() if rest else b"")) == b"".join(pieces)


def transfer() -> ImageTransfer:
    done = Part("aaaaaaaaaaaa", 1_000_000, "done", 1_000_000)
    moving = Part("bbbbbbbbbbbb", 9_000_000, "downloading", 4_500_000, 500_000)
    return ImageTransfer("pull", "app:1", [done, moving])


def test_lines_come_now_and_then() -> None:
    import contextlib
    import io

    out, now = io.StringIO(), [0.0]
    lines = Lines(lambda: contextlib.nullcontext(out), clock=lambda: now[0])
    moving = transfer()
    lines.begin(moving)
    for tenth in range(250):
        now[0] = tenth / 10
        lines.refresh(moving)
    lines.end(moving, None)
    told = out.getvalue().splitlines()
    assert len(told) == 4  # after 2, 12 and 22 seconds, and at the end
    assert re.match(r"containers: pull app:1: 5\.5 MB of 10\.0 MB, 1 of 2 layers, .*/s$", told[0])
    assert told[-1].startswith("containers: pulled app:1: 5.0 MB of 10.0 MB moved in ")


def test_what_is_quick_or_fails_says_nothing() -> None:
    import contextlib
    import io

    out = io.StringIO()
    lines = Lines(lambda: contextlib.nullcontext(out))
    lines.begin(ImageTransfer("pull", "x", []))
    lines.end(ImageTransfer("pull", "x", []), None)
    lines.begin(transfer())
    lines.end(transfer(), ValueError())
    assert out.getvalue() == ""


def test_bars_are_drawn_over_each_other_and_taken_away() -> None:
    import contextlib
    import io

    out = io.StringIO()
    bars = Bars(lambda: contextlib.nullcontext(out), width=80)
    moving = transfer()
    bars.begin(moving)
    bars.refresh(moving)
    first = out.getvalue()
    assert first.startswith("\ncontainers: pull app:1  5.5 MB of 10.0 MB")
    assert "aaaaaaaaaaaa" in first
    assert "downloading" in first
    row = next(line for line in first.splitlines() if "bbbbbbbbbbbb" in line)
    assert re.search(r"4\.5 MB.*/s.*downloading", row)
    bars.refresh(moving)
    assert out.getvalue()[len(first) :].startswith("\x1b[3F\x1b[J")
    bars.end(moving, None)
    assert out.getvalue().endswith(" s\n")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (169_200_000, "169.2 MB")]
)
def test_sizes(count: int, text: str) -> None:
    assert format_size(count) == text
