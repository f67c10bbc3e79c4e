"""The documents of shared results, and the setting that says where they are."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.images.manifest import Descriptor
from pytest_containers.images.shared import documents
from pytest_containers.images.shared.documents import ListedResult, Marker
from pytest_containers.images.store.layers import is_state_layer
from pytest_containers.model.errors import ImageError
from pytest_containers.model.setting_values import shared_place
from pytest_containers.model.sharing import SharedPlace

DIGEST = "sha256:" + "ab" * 32
SECRET = b"a secret of the fleet"


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("r.example/ci/states", SharedPlace("r.example/ci/states")),
        ("r.example/a , readonly", SharedPlace("r.example/a", read_only=True)),
        (
            "127.0.0.1:5000/a,wait=2m,max-age=14d",
            SharedPlace("127.0.0.1:5000/a", wait_s=120.0, max_age_s=14 * 86400.0),
        ),
    ],
)
def test_places(value: str, place: SharedPlace) -> None:
    assert shared_place(value) == place


@pytest.mark.parametrize(
    "value",
    ["states", "https://r.example/a", "r.example/a, never", "r.example/", "r.example/a, wait="],
)
def test_what_is_no_place(value: str) -> None:
    with pytest.raises(ValueError, match=r"REGISTRY/REPOSITORY|a time such as"):
        shared_place(value)


def test_an_index_lists_the_newest_first() -> None:
    entries = [
        ListedResult(DIGEST, 10, 5.5, ""),
        ListedResult(DIGEST[:-1] + "0", 11, 7.25, "signed"),
    ]
    data = documents.index_of(entries, "state")
    assert documents.parse_index(data, "test") == entries[::-1]


def test_an_artifact() -> None:
    config = Descriptor(documents.artifact_type("state"), DIGEST, 10)
    layer = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", DIGEST, 20)
    data = documents.artifact_of(config, layer, "state", {"title": "seed"}, 1.0)
    assert documents.parse_artifact(data, "state", "test") == (config, layer)
    with pytest.raises(ImageError, match="another format"):
        documents.parse_artifact(data, "step", "test")


def test_a_layer_is_fetched_from_its_registry_only() -> None:
    config = Descriptor(documents.artifact_type("state"), DIGEST, 10)
    layer = Descriptor("application/vnd.oci.image.layer.v1.tar", DIGEST, 20)
    body = json.loads(documents.artifact_of(config, layer, "state", {}, 1.0))
    body["layers"][0]["urls"] = ["http://169.254.169.254/"]
    parsed = documents.parse_artifact(json.dumps(body).encode(), "state", "test")[1]
    assert parsed is not None
    assert parsed.urls == ()


def test_a_note_of_a_maker_is_signed_if_there_is_a_secret() -> None:
    marker = Marker("somebody", 12.5)
    unsigned = documents.marker_of(marker, "state-a", None)
    signed = documents.marker_of(marker, "state-a", SECRET)
    assert documents.parse_marker(unsigned, "state-a", None, "test") == marker
    assert documents.parse_marker(unsigned, "state-a", SECRET, "test") is None
    assert documents.parse_marker(signed, "state-a", SECRET, "test") == marker
    assert documents.parse_marker(signed, "state-b", SECRET, "test") is None
    assert documents.parse_marker(signed, "state-a", SECRET + b"!", "test") is None


def test_signatures_are_of_one_tag_and_one_secret() -> None:
    signature = documents.signature(SECRET, "state-a", DIGEST)
    assert documents.is_signed(SECRET, "state-a", DIGEST, signature)
    assert not documents.is_signed(SECRET, "state-b", DIGEST, signature)
    assert not documents.is_signed(SECRET, "state-a", DIGEST[:-1] + "0", signature)
    assert not documents.is_signed(SECRET + b"!", "state-a", DIGEST, signature)
    assert not documents.is_signed(SECRET, "state-a", DIGEST, "ä")
    assert not documents.is_signed(SECRET, "state-a", "\ud800", "\udfff")


def test_no_image_has_the_name_of_a_state_layer() -> None:
    """A hostile state cannot take the place of a layer that an image will need."""
    assert not is_state_layer(DIGEST, DIGEST[7:])
    assert not is_state_layer(DIGEST, "")


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(
            ["manifests", "annotations", "layers", "config", "digest", "size", "mediaType",
             documents.CREATED, documents.SIGNATURE, documents.UNTIL, documents.OWNER]
        ), inner,
    ),
)  # fmt: skip


@given(_JSON | st.binary())
def test_any_document_is_parsed_or_refused(body: object) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    for parse in (
        lambda: documents.parse_index(data, "test"),
        lambda: documents.parse_artifact(data, "state", "test"),
        lambda: documents.parse_marker(data, "state-a", SECRET, "test"),
        lambda: documents.parse_marker(data, "state-a", None, "test"),
    ):
        with contextlib.suppress(ImageError):
            parse()


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"])
def test_a_time_that_the_calendar_has_in_no_other_zone(time: str) -> None:
    # It was listed, and whoever wrote the index anew ended in an error of Python.
    body = json.loads(documents.index_of([ListedResult(DIGEST, 10, 5.5, "")], "state"))
    body["manifests"][0]["annotations"][documents.CREATED] = time
    with pytest.raises(ImageError, match="no time of its making"):
        documents.parse_index(json.dumps(body).encode(), "test")
