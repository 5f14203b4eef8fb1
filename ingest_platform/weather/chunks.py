"""Whole chunks of a grid: cut, compressed, and set in the store under zarr's keys, bit for bit as zarr would.

Zarr's own assignment takes 5 ms a field beyond its compression, for a comparison with the fill, copies and
hand-overs between threads: a third of what decoding takes. Nothing of that is needed for whole grids.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numcodecs import Blosc
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import BloscCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

# zstd 1 with byte shuffle packs a 1440 × 721 float32 field in 7 ms to 1.3 MB; zstd 3 takes twice as long for
# 6 % less (specs/weather.md, 4.2).
CODEC = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")
# A GFS or HRRR field stays one chunk; a 24.5-million-cell radar mosaic becomes sixteen, so that
# reading a county does not inflate the country.
CHUNK_CELLS = 2_000_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a grid lies in the store: its array's path, and its index on every axis before y and x."""

    array: str
    index: tuple[int, ...]

    def key(self, row: int, column: int) -> str:
        return "/".join((self.array, "c", *map(str, (*self.index, row, column))))


def chunk_shape(rows: int, columns: int) -> tuple[int, int]:
    """Cells of one chunk: the grid itself, or an even part of it of at most CHUNK_CELLS."""
    split = 1
    while math.ceil(rows / split) * math.ceil(columns / split) > CHUNK_CELLS:
        split += 1
    return math.ceil(rows / split), math.ceil(columns / split)


def put_grid(store: Store, place: Place, values: NDArray[Any], fill: float) -> int:
    """Set every chunk of a grid (y × x, contiguous, little-endian). The bytes that they take.

    A chunk of nothing but `fill` takes none: it is deleted. The store's errors pass through.
    """
    height, width = chunk_shape(*values.shape)
    codec = Blosc(CODEC.cname, CODEC.clevel, Blosc.SHUFFLE, typesize=values.dtype.itemsize)
    size = 0
    # Row by row: the chunks of a 0.5 km scan would otherwise wait for each other in 40 MB.
    for row in range(math.ceil(values.shape[0] / height)):
        encoded: dict[str, bytes | None] = {}
        for column in range(math.ceil(values.shape[1] / width)):
            tile = _tile(values, row * height, column * width, (height, width), fill)
            encoded[place.key(row, column)] = None if _is_all(tile, fill) else codec.encode(tile)
        sync(_put(store, encoded))
        size += sum(len(body) for body in encoded.values() if body is not None)
    return size


def _tile(values: NDArray[Any], row: int, column: int, shape: tuple[int, int], fill: float) -> NDArray[Any]:
    """One chunk, contiguous; what reaches beyond the grid's border is fill."""
    part = values[row : row + shape[0], column : column + shape[1]]
    if part.shape == shape:
        return np.ascontiguousarray(part)
    tile = np.full(shape, fill, dtype=values.dtype)
    tile[: part.shape[0], : part.shape[1]] = part
    return tile


def _is_all(tile: NDArray[Any], fill: float) -> bool:
    # The first row decides for nearly every chunk; a look at all cells of a field takes 2 ms.
    return _equal(tile[:1], fill) and _equal(tile, fill)


def _equal(cells: NDArray[Any], fill: float) -> bool:
    return bool((np.isnan(cells) if math.isnan(fill) else cells == fill).all())


async def _put(store: Store, encoded: Mapping[str, bytes | None]) -> None:
    prototype = default_buffer_prototype().buffer

    async def put(key: str, body: bytes | None) -> None:
        if body is None:
            await store.delete(key)
        else:
            await store.set(key, prototype.from_bytes(body))

    await asyncio.gather(*(put(key, body) for key, body in encoded.items()))
