"""Where the cells of a GRIB2 grid lie, from the bytes of section 3, in CF terms.

Regular latitude/longitude (GFS, MRMS) and Lambert conformal (HRRR) grids. Rows and columns stay in the
file's own scan order and the coordinates say so; a scan order in which a row is not a run of
neighbours is refused, for no coordinate vector could tell it.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest_platform.errors import PermanentError
from ingest_platform.weather.grib_header import signed
from ingest_platform.weather.model import Geometry

type Attributes = tuple[tuple[str, Any], ...]

_MICRODEGREES = 1_000_000
_MISSING = 0xFFFFFFFF
# MRMS writes its last point as 20.005001, 299.994998 and means 20.005, 299.995: within this many
# microdegrees the stated step is exact; beyond it, the step was rounded (1/6°) and the ends are exact.
_LAST_POINT_SLACK = 2

# Every message of a model has the same section: 16 hold all grids of all models in use.
_GEOMETRIES_KEPT = 16


@lru_cache(maxsize=_GEOMETRIES_KEPT)
def geometry(section: bytes) -> Geometry:
    """Geometry of one section 3. `PermanentError` names a grid or scan order that is not supported."""
    template = int.from_bytes(section[12:14])
    if template not in _TEMPLATES:
        raise PermanentError(
            f"grid template 3.{template}; latitude/longitude (3.0) or Lambert (3.30) expected"
        )
    flags_at, make = _TEMPLATES[template]
    if len(section) <= flags_at:
        raise PermanentError(f"grid template 3.{template} in only {len(section)} bytes")
    refuse_unreadable_scan(section[flags_at])
    return make(section)


def refuse_unreadable_scan(flags: int) -> None:
    """`PermanentError` unless rows run eastward one after the other (code table 3.4)."""
    wrong = [name for bit, name in _UNREADABLE_SCANS.items() if flags & bit]
    if wrong:
        raise PermanentError(f"scanning mode 0x{flags:02x} ({', '.join(wrong)}); eastward rows expected")


_NORTHWARD = 0x40
_UNREADABLE_SCANS = {
    0x80: "points run westward",
    0x20: "columns, not rows, are consecutive",
    0x10: "alternating rows run backwards",
    0x08: "odd rows are offset",
    0x04: "even rows are offset",
    0x02: "rows are offset",
    0x01: "rows have unequal lengths",
}


def _latitude_longitude(section: bytes) -> Geometry:
    columns, rows = _shape(section)
    _require_microdegrees(section)
    south, west, north, east = _signed_words(section, 46, 50, 55, 59)
    step_x, step_y = int.from_bytes(section[63:67]), int.from_bytes(section[67:71])
    if east < west:
        east += 360 * _MICRODEGREES
    y = _axis(south, north, step_y, rows)
    x = _axis(west, east, step_x, columns)
    half_x, half_y = _half_step(x), _half_step(y)
    return Geometry(
        y_name="latitude",
        x_name="longitude",
        y=y,
        x=x,
        y_attributes=(("standard_name", "latitude"), ("units", "degrees_north"), ("axis", "Y")),
        x_attributes=(("standard_name", "longitude"), ("units", "degrees_east"), ("axis", "X")),
        grid_mapping="crs",
        crs=(("grid_mapping_name", "latitude_longitude"), *_earth(section)),
        bbox=(
            float(x.min()) - half_x,
            max(float(y.min()) - half_y, -90.0),
            float(x.max()) + half_x,
            min(float(y.max()) + half_y, 90.0),
        ),
    )


def _lambert(section: bytes) -> Geometry:
    """Axes in metres: the first point is projected, the rest are steps of the stated length."""
    from pyproj import CRS

    columns, rows = _shape(section)
    first_latitude, first_longitude = (v / _MICRODEGREES for v in _signed_words(section, 38, 42))
    meridian, latin_1, latin_2, origin = (v / _MICRODEGREES for v in _signed_words(section, 51, 65, 69, 47))
    if section[63]:
        raise PermanentError(
            f"projection centre flag 0x{section[63]:02x}; the north pole on the plane expected"
        )
    crs: Attributes = (
        ("grid_mapping_name", "lambert_conformal_conic"),
        ("standard_parallel", [latin_1, latin_2]),
        ("longitude_of_central_meridian", meridian),
        ("latitude_of_projection_origin", origin),
        *_earth(section),
    )
    projection = CRS.from_cf(dict(crs))
    first_x, first_y = _project(projection, first_longitude, first_latitude)
    # Lengths are stated in millimetres.
    step_x, step_y = (int.from_bytes(section[at : at + 4]) / 1000 for at in (55, 59))
    northward = 1 if section[64] & _NORTHWARD else -1
    x = (first_x + step_x * np.arange(columns)).astype(np.float64)
    y = (first_y + northward * step_y * np.arange(rows)).astype(np.float64)
    return Geometry(
        y_name="y",
        x_name="x",
        y=y,
        x=x,
        y_attributes=(("standard_name", "projection_y_coordinate"), ("units", "m"), ("axis", "Y")),
        x_attributes=(("standard_name", "projection_x_coordinate"), ("units", "m"), ("axis", "X")),
        grid_mapping="crs",
        crs=crs,
        bbox=bounds_of_border(projection, x, y),
    )


# By grid template: where the scanning mode lies (0-based), and the builder.
_TEMPLATES = {0: (71, _latitude_longitude), 30: (64, _lambert)}


def _require_microdegrees(section: bytes) -> None:
    """Basic angle 0 means microdegrees; MRMS says the same as 1° in 1,000,000 parts."""
    basic, parts = int.from_bytes(section[38:42]), int.from_bytes(section[42:46])
    if basic not in (0, _MISSING) and parts != basic * _MICRODEGREES:
        raise PermanentError(f"grid in units of {basic}°/{parts:,}; microdegrees expected")


def _shape(section: bytes) -> tuple[int, int]:
    """Columns and rows; their product is the section's own number of points."""
    columns, rows = int.from_bytes(section[30:34]), int.from_bytes(section[34:38])
    points = int.from_bytes(section[6:10])
    if columns < 2 or rows < 2 or columns * rows != points:
        raise PermanentError(
            f"a grid of {columns} × {rows} with {points:,} points; a full rectangle expected"
        )
    return columns, rows


def _signed_words(section: bytes, *offsets: int) -> tuple[int, ...]:
    return tuple(signed(section[at : at + 4]) for at in offsets)


def _axis(first: int, last: int, step: int, count: int) -> NDArray[np.float64]:
    """Degrees from microdegrees. All sums are integers: each value is the nearest float64 to its decimal."""
    index = np.arange(count)
    direction = 1 if last >= first else -1
    if step != _MISSING and abs(first + direction * step * (count - 1) - last) <= _LAST_POINT_SLACK:
        return np.asarray((first + direction * step * index) / _MICRODEGREES)
    weighted = first * (count - 1 - index) + last * index
    return np.asarray(weighted / (_MICRODEGREES * (count - 1)))


def _half_step(axis: NDArray[np.float64]) -> float:
    return abs(float(axis[1] - axis[0])) / 2


def _earth(section: bytes) -> Attributes:
    """CF attributes of the earth's shape, code table 3.2; metres."""
    shape = section[14]
    if shape in _SPHERES:
        return (("earth_radius", _SPHERES[shape]),)
    if shape in _ELLIPSOIDS:
        semi_major, semi_minor = _ELLIPSOIDS[shape]
        return (("semi_major_axis", semi_major), ("semi_minor_axis", semi_minor))
    if shape == 1:
        return (("earth_radius", _scaled(section, 15)),)
    if shape in (3, 7):  # 3 is in kilometres
        unit = 1000.0 if shape == 3 else 1.0
        return (
            ("semi_major_axis", _scaled(section, 20) * unit),
            ("semi_minor_axis", _scaled(section, 25) * unit),
        )
    raise PermanentError(f"shape of the earth {shape} (code table 3.2) is not supported")


_SPHERES = {0: 6_367_470.0, 6: 6_371_229.0, 8: 6_371_200.0}
_ELLIPSOIDS = {
    2: (6_378_160.0, 6_356_775.0),
    4: (6_378_137.0, 6_356_752.314140),
    5: (6_378_137.0, 6_356_752.314245),
}


def _scaled(section: bytes, at: int) -> float:
    return int.from_bytes(section[at + 1 : at + 5]) / 10.0 ** signed(section[at : at + 1])


def _project(projection: Any, longitude: float, latitude: float) -> tuple[float, float]:
    from pyproj import Transformer

    x, y = Transformer.from_crs(projection.geodetic_crs, projection, always_xy=True).transform(
        longitude, latitude
    )
    return float(x), float(y)


def bounds_of_border(
    projection: Any, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[float, float, float, float]:
    """West, south, east, north (degrees) of a projected grid, from a lattice of its points.

    Points that see no earth (a geostationary corner) are left out.
    """
    from pyproj import Transformer

    to_degrees = Transformer.from_crs(projection, projection.geodetic_crs, always_xy=True)
    columns, rows = np.meshgrid(x[_lattice(x.size)], y[_lattice(y.size)])
    longitude, latitude = to_degrees.transform(columns, rows)
    seen = np.isfinite(longitude) & np.isfinite(latitude)
    if not seen.any():
        raise PermanentError("no point of the grid lies on the earth")
    return (
        float(longitude[seen].min()),
        float(latitude[seen].min()),
        float(longitude[seen].max()),
        float(latitude[seen].max()),
    )


# 65 points a side put the bounds of HRRR and CONUS within 0.01°; all 24 million would take seconds.
_LATTICE = 65


def _lattice(count: int) -> NDArray[np.intp]:
    return np.linspace(0, count - 1, min(count, _LATTICE)).astype(np.intp)
