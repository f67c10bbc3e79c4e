"""Sizes: one meaning everywhere."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_containers.builder.mounts import _size as size_of_mount
from pytest_containers.cli.build import _size as size_of_scratch
from pytest_containers.cli.images import _bytes as size_of_store
from pytest_containers.model.sizes import parse_size

UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


@pytest.mark.parametrize(
    ("size", "size_bytes"),
    [(0, 0), (4096, 4096), ("4096", 4096), ("4096b", 4096), ("1k", 1024), ("64m", 64 << 20),
     ("1g", 1 << 30), ("1GB", 1 << 30), ("1GiB", 1 << 30), ("1 GiB", 1 << 30), ("1.5g", 3 << 29),
     ("0.5k", 512), ("9223372036854775807", (1 << 63) - 1)],
)  # fmt: skip
def test_sizes(size: int | str, size_bytes: int) -> None:
    assert parse_size(size) == size_bytes


@pytest.mark.parametrize("size", ["", "m", "-1", -1, True, "1x", "1ib", "1,5g", "1e3", "²", "٣k",
                                  "1  k", " 1k", "1k\n", ".5k", "1.k", "9" * 26, None])  # fmt: skip
def test_what_is_not_a_size(size: int | str) -> None:
    with pytest.raises(ValueError, match="is not a size; expected a number of bytes such as"):
        parse_size(size)


@pytest.mark.parametrize("size", [1 << 63, "8192p", "9" * 25])
def test_sizes_that_the_kernel_does_not_take(size: int | str) -> None:
    with pytest.raises(ValueError, match="is too large"):
        parse_size(size)


@given(
    st.decimals(0, 8000, places=3), st.sampled_from(sorted(UNITS)), st.sampled_from(["", "b", "B"]),
    st.booleans(), st.sampled_from(["", " "]),
)  # fmt: skip
def test_a_unit_is_a_power_of_1024_in_any_writing(
    number: object, unit: str, byte: str, binary: bool, space: str
) -> None:
    marker = "i" if binary and unit else ""
    text = f"{number}{space}{unit}{marker}{byte}"
    expected = int(Fraction(str(number)) * (1 << UNITS[unit]))
    assert parse_size(text) == parse_size(text.upper()) == expected


@given(st.integers(0, (1 << 63) - 1))
def test_a_number_of_bytes_is_itself(size_bytes: int) -> None:
    assert parse_size(size_bytes) == parse_size(str(size_bytes)) == size_bytes


@given(st.text("0123456789.kmgtpibKMGTPIB eE+-_x٣²", max_size=12))
@example("1_000")
def test_any_text_is_a_size_or_a_clear_error(text: str) -> None:
    try:
        size_bytes = parse_size(text)
    except ValueError as error:
        assert repr(text) in str(error)
    else:
        assert 0 <= size_bytes < 1 << 63


@pytest.mark.parametrize("size", ["1g", "1.5GiB", "10kb"])
def test_every_option_reads_sizes_alike(size: str) -> None:
    size_bytes = parse_size(size)
    assert size_of_mount(size) == size_of_scratch(size) == size_of_store(size) == size_bytes
