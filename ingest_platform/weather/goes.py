"""ABI L2 Cloud and Moisture Imagery (CMIP) netCDF files of the GOES satellites: one band of one scan.

Values stay packed as the file has them (16 bits; floats would double every later byte); `unpack` makes
physical values of them. The data quality flags (DQF) are not read: pixels without a value are the fill
already, and the other flags grade, they do not void.
"""

import io
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import batched
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest_platform.errors import PermanentError
from ingest_platform.weather.model import Geometry, Grid, Packing, Parameter
from ingest_platform.weather.unusable import Unusable

type Packed = NDArray[np.int16] | NDArray[np.uint16]

# ISA-L inflates outside the GIL. C02 (960 chunks, 34 MB) takes 160 ms with two threads beside other work on
# two cores, 175 ms with one, and 345 ms through HDF5.
INFLATE_THREADS = 2


def decode(payload: bytes, parameter: Parameter) -> Grid:
    """The CMI variable, y × x, int16 or uint16 as `_Unsigned` declares, with its packing.

    Reference and valid time are the start of the scan, in the name the file gives itself.
    `Unusable`: not a whole netCDF-4 file (framing), a chunk that does not inflate or match its checksum
    (decode), or another band than the parameter's (identity). Thread-safe.
    """
    import h5py

    try:
        file = h5py.File(io.BytesIO(payload), "r")
    except (OSError, RuntimeError) as error:
        raise Unusable(f"not a whole netCDF-4 file ({len(payload):,} bytes): {error}", "framing") from error
    with file:
        try:
            return _read(file, payload, parameter)
        except (KeyError, IndexError, OSError, RuntimeError, ValueError) as error:
            raise Unusable(f"not an ABI L2 CMIP file, or a damaged one: {error}", "decode") from error


def unpack(grid: Grid) -> NDArray[np.float32]:
    """Physical values of a packed grid, float32, NaN where the fill is; computed once for each of 65,536."""
    if grid.packing is None:
        return grid.values.astype(np.float32, copy=False)
    table = _table(grid.packing, grid.values.dtype.str)
    return table[grid.values.view(np.uint16)]


@lru_cache(maxsize=32)
def _table(packing: Packing, dtype: str) -> NDArray[np.float32]:
    stored = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    values = (stored * packing.scale_factor + packing.add_offset).astype(np.float32)
    values[stored == packing.fill] = np.nan
    return values


def _read(file: Any, payload: bytes, parameter: Parameter) -> Grid:
    band = int(np.ravel(file["band_id"][()])[0])
    if band != parameter.band:
        raise Unusable(
            f"band {band} instead of {parameter.band} ({parameter.name}). Nothing was written", "identity"
        )
    image = file["CMI"]
    start = _scan_start(file)
    place = _geometry(_grid_facts(file))
    if image.shape != (place.y.size, place.x.size):
        raise Unusable(f"CMI of {image.shape} on axes of {place.y.size} × {place.x.size}", "decode")
    packing = _packing(image)
    stored: Packed = _stored(image, payload)
    return Grid(
        parameter=parameter,
        level="",
        window="instant",
        reference_time=start,
        valid_time=start,
        lead=timedelta(0),
        geometry=place,
        values=stored.view(np.uint16) if packing.unsigned else stored,
        packing=packing,
    )


_NAME_START = re.compile(r"_s(\d{13})(\d)_")


def _scan_start(file: Any) -> datetime:
    """Start of the scan, to the tenth of a second.

    From `dataset_name`, whose stamp every band of a scan shares; `t` is the scan's middle and differs.
    """
    name = _text(file.attrs["dataset_name"])
    found = _NAME_START.search(name)
    if found is None:
        raise Unusable(f"dataset_name {name!r} has no scan start _sYYYYDDDHHMMSSt_", "decode")
    second = datetime.strptime(found[1], "%Y%j%H%M%S").replace(tzinfo=UTC)
    return second + timedelta(milliseconds=100 * int(found[2]))


def _packing(image: Any) -> Packing:
    """CF packing; the fill as the declared type sees it: -1 in an unsigned variable is 65535."""
    if image.dtype.kind not in "iu" or image.dtype.itemsize != 2:
        raise PermanentError(f"CMI is {image.dtype}; 16-bit integers expected")
    unsigned = image.dtype.kind == "u" or _text(image.attrs.get("_Unsigned", "false")).lower() == "true"
    fill = int(_scalar(image.attrs["_FillValue"]))
    return Packing(
        scale_factor=float(_scalar(image.attrs["scale_factor"])),
        add_offset=float(_scalar(image.attrs["add_offset"])),
        fill=fill % (1 << 16) if unsigned else fill,
        unsigned=unsigned,
    )


def _stored(image: Any, payload: bytes) -> NDArray[np.int16]:
    """The integers as they lie in the file.

    Chunks of plain deflate are inflated here, side by side: 2 to 3 times faster than through HDF5, which
    does one at a time under a global lock. Any other layout is read by HDF5.
    """
    native = image.dtype.newbyteorder("=")
    chunks = _deflated_chunks(image)
    if chunks is None:
        return np.ascontiguousarray(image[()], dtype=native)
    canvas = np.empty(image.shape, dtype=native)
    if len(chunks) < _chunk_count(image):  # what was never written is the fill
        canvas.fill(image.fillvalue)
    place = _placer(canvas, image, payload)
    if len(chunks) < INFLATE_THREADS:
        place(chunks)
        return canvas
    with ThreadPoolExecutor(INFLATE_THREADS) as pool:
        list(pool.map(place, batched(chunks, _CHUNKS_AT_ONCE)))
    return canvas


def _chunk_count(image: Any) -> int:
    rows, columns = (-(-cells // side) for cells, side in zip(image.shape, image.chunks, strict=True))
    return int(rows * columns)


# A task of 16 chunks inflates for some 6 ms, well above what a hand-over between threads costs.
_CHUNKS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class _Chunk:
    row: int
    column: int
    offset: int  # in the file
    size: int


def _deflated_chunks(image: Any) -> tuple[_Chunk, ...] | None:
    """Where the chunks lie; None unless each is deflated and nothing else was done to it."""
    if image.chunks is None or image.compression != "gzip" or image.shuffle or image.fletcher32:
        return None
    found: list[_Chunk] = []
    skipped_filters: list[int] = []

    def note(chunk: Any) -> None:
        row, column = chunk.chunk_offset
        found.append(_Chunk(row, column, chunk.byte_offset, chunk.size))
        if chunk.filter_mask:
            skipped_filters.append(chunk.filter_mask)

    image.id.chunk_iter(note)
    return None if skipped_filters else tuple(found)


def _placer(canvas: NDArray[np.int16], image: Any, payload: bytes) -> Callable[[tuple[_Chunk, ...]], None]:
    """Inflates chunks and puts them where they belong; chunks at the border reach beyond it."""
    from isal import isal_zlib

    height, width = image.chunks
    size_bytes = height * width * image.dtype.itemsize
    view = memoryview(payload)

    def place(chunks: tuple[_Chunk, ...]) -> None:
        for chunk in chunks:
            try:
                raw = isal_zlib.decompress(view[chunk.offset : chunk.offset + chunk.size], bufsize=size_bytes)
            except isal_zlib.error as error:  # type: ignore[misc]  # the stub calls it a function
                where = f"row {chunk.row:,}, column {chunk.column:,}"
                raise Unusable(f"the chunk at {where} does not inflate: {error}", "decode") from error
            tile = np.frombuffer(raw, dtype=image.dtype).reshape(height, width)
            into = canvas[chunk.row : chunk.row + height, chunk.column : chunk.column + width]
            into[...] = tile[: into.shape[0], : into.shape[1]]

    return place


@dataclass(frozen=True, slots=True)
class _GridFacts:
    """What tells one ABI fixed grid from another; hashable, so that its geometry is made once."""

    y: tuple[int, float, float]  # count, scale, offset; radians
    x: tuple[int, float, float]
    projection: tuple[tuple[str, Any], ...]


def _grid_facts(file: Any) -> _GridFacts:
    projection = file["goes_imager_projection"].attrs
    return _GridFacts(
        y=_axis_facts(file["y"]),
        x=_axis_facts(file["x"]),
        projection=tuple(
            (name, _plain(projection[name])) for name in _PROJECTION_ATTRIBUTES if name in projection
        ),
    )


_PROJECTION_ATTRIBUTES = (
    "grid_mapping_name",
    "perspective_point_height",
    "semi_major_axis",
    "semi_minor_axis",
    "latitude_of_projection_origin",
    "longitude_of_projection_origin",
    "sweep_angle_axis",
)


def _axis_facts(axis: Any) -> tuple[int, float, float]:
    """Count, scale and offset of an axis that counts 0, 1, 2, … as every ABI axis does."""
    stored = axis[()]
    if not np.array_equal(stored, np.arange(stored.size)):
        raise PermanentError(f"axis {axis.name} does not count from 0; an ABI fixed grid expected")
    return stored.size, _decimal(axis.attrs["scale_factor"]), _decimal(axis.attrs["add_offset"])


@lru_cache(maxsize=16)
def _geometry(facts: _GridFacts) -> Geometry:
    """Fixed-grid axes in radians from the satellite, named by the nominal resolution at nadir."""
    y, x = (
        (offset + scale * np.arange(count)).astype(np.float64) for count, scale, offset in (facts.y, facts.x)
    )
    suffix = _resolution(abs(facts.x[1]))
    return Geometry(
        y_name=f"y_{suffix}",
        x_name=f"x_{suffix}",
        y=y,
        x=x,
        y_attributes=(("standard_name", "projection_y_coordinate"), ("units", "rad"), ("axis", "Y")),
        x_attributes=(("standard_name", "projection_x_coordinate"), ("units", "rad"), ("axis", "X")),
        grid_mapping="goes_imager_projection",
        crs=facts.projection,
        bbox=_bounds(facts.projection, y, x),
    )


# Product definition: pixels of 14, 28 and 56 µrad are 0.5, 1 and 2 km at nadir.
_RESOLUTIONS = {14: "500m", 28: "1km", 56: "2km"}


def _resolution(radians: float) -> str:
    microradians = round(radians * 1e6)
    if microradians not in _RESOLUTIONS:
        raise PermanentError(f"pixels of {microradians} µrad; {sorted(_RESOLUTIONS)} expected")
    return _RESOLUTIONS[microradians]


def _bounds(
    projection: tuple[tuple[str, Any], ...], y: NDArray[np.float64], x: NDArray[np.float64]
) -> tuple[float, float, float, float]:
    from pyproj import CRS

    from ingest_platform.weather.grib_geometry import bounds_of_border

    crs = dict(projection)
    height = float(crs["perspective_point_height"])
    return bounds_of_border(CRS.from_cf(crs), x * height, y * height)


def _decimal(attribute: Any) -> float:
    """The decimal a float32 stands for: 5.6e-05, not 5.599999…e-05, which drifts 0.07 m over a CONUS row."""
    return float(str(np.ravel(attribute)[0]))


def _scalar(attribute: Any) -> Any:
    return np.ravel(attribute)[0]


def _plain(attribute: Any) -> str | float:
    """An HDF5 attribute as text or float, for CF attributes in JSON."""
    value = _scalar(attribute)
    return _text(value) if isinstance(value, bytes | str) else float(value)


def _text(value: Any) -> str:
    value = _scalar(value) if isinstance(value, np.ndarray) else value
    return value.decode() if isinstance(value, bytes) else str(value)
