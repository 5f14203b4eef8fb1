"""Chunks that we compress ourselves are what zarr would have stored, byte for byte."""

import math
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from ingest_platform.weather import chunks
from ingest_platform.weather.chunks import CODEC, Place, chunk_shape, put_grid

FILLS = {"<f4": math.nan, "<u2": 65535, "<i2": -1}
PLACE = Place("field", (1, 2))


def stored(store: MemoryStore) -> dict[str, bytes]:
    """Every chunk by its key."""
    return {key: body.to_bytes() for key, body in store._store_dict.items() if "/c/" in key}


def array_in(store: MemoryStore, values: NDArray[Any]) -> zarr.Array[Any]:
    """The array that publishing makes for such grids: two times, three levels."""
    return zarr.open_group(store, mode="a", zarr_format=3).create_array(
        PLACE.array,
        shape=(2, 3, *values.shape),
        chunks=(1, 1, *chunk_shape(*values.shape)),
        dtype=values.dtype,
        fill_value=FILLS[values.dtype.str],
        compressors=[CODEC],
        config={"write_empty_chunks": False},
    )


def by_zarr(values: NDArray[Any]) -> dict[str, bytes]:
    store = MemoryStore()
    array_in(store, values)[PLACE.index] = values
    return stored(store)


def by_us(values: NDArray[Any]) -> tuple[dict[str, bytes], int]:
    store = MemoryStore()
    size = put_grid(store, PLACE, values, FILLS[values.dtype.str])
    return stored(store), size


@st.composite
def grids(draw: st.DrawFn) -> NDArray[Any]:
    """Grids of few cells and many chunks, some of nothing but fill, with borders that cut chunks."""
    rows, columns = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    dtype = draw(st.sampled_from(sorted(FILLS)))
    values = np.random.default_rng(draw(st.integers(0, 9))).integers(-300, 300, (rows, columns)).astype(dtype)
    first, last = sorted(draw(st.tuples(st.integers(0, rows), st.integers(0, rows))))
    values[first:last] = FILLS[dtype]
    return values


# Some examples are hundreds of chunks, each a hand-over to zarr's event loop.
@settings(deadline=None, max_examples=50)
@given(values=grids(), cells=st.integers(4, 400))
def test_a_grid_is_stored_as_zarr_stores_it(values: NDArray[Any], cells: int) -> None:
    """Else readers of one array meet two encodings, or cells beyond the border that say something."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_CELLS", cells)

        ours, size = by_us(values)

        assert ours == by_zarr(values)
        assert size == sum(map(len, ours.values()))


def test_a_field_of_full_size_is_stored_as_zarr_stores_it() -> None:
    """Small chunks are not split into blocks by the compressor; this one is."""
    values = np.random.default_rng(0).standard_normal((721, 1440)).astype("<f4").cumsum(axis=1)

    ours, _ = by_us(values)

    assert ours == by_zarr(values)
    assert list(ours) == ["field/c/1/2/0/0"]


def test_a_grid_of_nothing_but_fill_leaves_no_chunk_of_an_older_one() -> None:
    """Else a version without values would show those of the version before it."""
    store = MemoryStore()
    values = np.ones((30, 40), dtype="<f4")
    put_grid(store, PLACE, values, math.nan)

    size = put_grid(store, PLACE, np.full_like(values, math.nan), math.nan)

    assert stored(store) == {}
    assert size == 0
