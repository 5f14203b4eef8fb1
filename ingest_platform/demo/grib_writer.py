"""Writes GRIB2 messages: sections 0 to 4 from their octets, the packed values once per field.

A message is cheap (some 30 µs) once its values are packed (100 to 300 ms), so that one field can serve many
levels and leads: `shifted` moves its reference value. Writes what NOAA writes, nothing more.
"""

import math
import re
import struct
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from ingest_platform.weather import grib_header
from ingest_platform.weather.eccodes_library import load_eccodes
from ingest_platform.weather.grib_header import Surface
from ingest_platform.weather.model import Parameter

NCEP, NSSL = 7, 161
_MISSING_OCTET = 0xFF
_STATISTICS = {"ave": 0, "acc": 1, "max": 2, "min": 3}


@dataclass(frozen=True, slots=True)
class Lattice:
    """A GRIB grid: section 3, and what a field's painter needs of it."""

    section: bytes
    shape: tuple[int, int]  # rows, columns, in scan order
    latitude: NDArray[np.float32]  # of each row, degrees; roughly, where the grid is projected


@dataclass(frozen=True, slots=True)
class Packed:
    """Sections 5, 6 and 7: the values."""

    sections: bytes

    @property
    def quantum(self) -> float:
        """The step between two neighbouring values."""
        binary, decimal = (grib_header.signed(self.sections[at : at + 2]) for at in (15, 17))
        return float(2.0**binary * 10.0**-decimal)

    def shifted(self, by: float) -> "Packed":
        """The same field, higher by `by` (to float32)."""
        (reference,) = struct.unpack(">f", self.sections[11:15])
        decimal = grib_header.signed(self.sections[17:19])
        moved = struct.pack(">f", reference + by * 10.0**decimal)
        return Packed(self.sections[:11] + moved + self.sections[15:])


@dataclass(frozen=True, slots=True)
class Window:
    """The span a field is of, after the cycle; `process` is None for a moment."""

    start: timedelta
    end: timedelta
    process: str | None = None


def message(
    number: tuple[int, int, int],
    level: str,
    window: Window,
    reference_time: datetime,
    lattice: Lattice,
    packed: Packed,
    *,
    minutes: bool = False,
) -> bytes:
    """One whole GRIB2 message. `number`: discipline, category, number; `level`: as wgrib2 writes it.

    `minutes`: forecast times in minutes, as HRRR's sub-hourly files have them.
    """
    body = b"".join(
        (
            _identification(number[0], reference_time),
            lattice.section,
            _product(number, level, window, reference_time, minutes=minutes),
            packed.sections,
            b"7777",
        )
    )
    return struct.pack(">4sHBBQ", b"GRIB", 0xFFFF, number[0], 2, 16 + len(body)) + body


def _identification(discipline: int, moment: datetime) -> bytes:
    radar = discipline == MRMS_DISCIPLINE
    centre, master, local, significance, kind = (NSSL, 255, 1, 3, 7) if radar else (NCEP, 2, 1, 1, 1)
    time = (moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second)
    return struct.pack(">IBHHBBBHBBBBBBB", 21, 1, centre, 0, master, local, significance, *time, 0, kind)


MRMS_DISCIPLINE = 209


def _product(
    number: tuple[int, int, int], level: str, window: Window, reference_time: datetime, *, minutes: bool
) -> bytes:
    unit, step = (0, timedelta(minutes=1)) if minutes else (1, timedelta(hours=1))
    surfaces = b"".join(_surface(s) for s in surfaces_of(level))
    start = window.start if window.process else window.end
    head = struct.pack(">BBBBBHBBI", *number[1:], 2, 0, 96, 0, 0, unit, start // step)
    if window.process is None:
        return struct.pack(">IBHH", 34, 4, 0, 0) + head + surfaces
    end = reference_time + window.end
    time = (end.year, end.month, end.day, end.hour, end.minute, end.second)
    process = _STATISTICS[window.process]
    span = struct.pack(">BBBIBI", process, 2, unit, (window.end - window.start) // step, 255, 0)
    return struct.pack(">IBHH", 58, 4, 0, 8) + head + surfaces + struct.pack(">HBBBBBBI", *time, 1, 0) + span


def _surface(surface: Surface) -> bytes:
    if surface.value is None:
        return struct.pack(">BBI", surface.type, _MISSING_OCTET, grib_header.MISSING_VALUE)
    # As few decimals as the value needs: a tenth of a metre below ground, 2e-6 of potential vorticity.
    scale = next(d for d in range(10) if math.isclose(surface.value * 10**d, round(surface.value * 10**d)))
    return struct.pack(">BBI", surface.type, scale, _sign_magnitude(round(surface.value * 10**scale), 32))


def _sign_magnitude(value: int, bits: int) -> int:
    return value if value >= 0 else -value | 1 << (bits - 1)


_NUMBER = r"(-?[0-9.e-]+?)"
_NONE = Surface(grib_header.NO_SURFACE, None)


def surfaces_of(level: str) -> tuple[Surface, Surface]:
    """Both fixed surfaces of a level as wgrib2 writes it. ValueError for a level that it does not write."""
    for code, text in grib_header.PLAIN_LEVELS.items():
        if level == text:
            return Surface(code, None), _NONE
    for code, (factor, text) in grib_header.LAYERS.items():
        if found := _read(text, f"{_NUMBER}-{_NUMBER}", level):
            first, second = (Surface(code, float(n) / factor) for n in found.groups())
            return first, second
    for code, (factor, text) in grib_header.VALUED_LEVELS.items():
        if found := _read(text, _NUMBER, level):
            return Surface(code, float(found[1]) / factor), _NONE
    raise ValueError(f"no surface is called {level!r}")


def _read(text: str, number: str, level: str) -> re.Match[str] | None:
    before, after = text.split("{}")
    return re.fullmatch(re.escape(before) + number + re.escape(after), level)


def latitude_longitude(rows: int, columns: int) -> Lattice:
    """The globe from the north pole southward, from 0° eastward, as GFS has it."""
    step_y, step_x = 180_000_000 // (rows - 1), 360_000_000 // columns
    corners = (
        90_000_000,
        0,
        48,
        _sign_magnitude(90_000_000 - step_y * (rows - 1), 32),
        step_x * (columns - 1),
    )
    section = _latitude_longitude_section(rows, columns, _SPHERE_NCEP, 0, (*corners, step_x, step_y))
    return Lattice(section, (rows, columns), np.linspace(90, -90, rows, dtype=np.float32))


def mosaic(rows: int, columns: int) -> Lattice:
    """The contiguous US from 55° N, 230° E, as MRMS has it: even its last point, off by a microdegree."""
    step_y, step_x = 35_000_000 // rows, 70_000_000 // columns
    first_y, first_x = 55_000_000 - step_y // 2, 230_000_000 + step_x // 2
    last_y, last_x = first_y - step_y * (rows - 1) + 1, first_x + step_x * (columns - 1) - 2
    corners = (first_y, first_x, 48, last_y, last_x)
    section = _latitude_longitude_section(rows, columns, _ELLIPSOID_MRMS, 1, (*corners, step_x, step_y))
    return Lattice(section, (rows, columns), np.linspace(55, 20, rows, dtype=np.float32))


# Shape of the earth and its axes, octets 15 to 30, as each producer writes them.
_SPHERE_NCEP = bytes([6]) + bytes(15)
_ELLIPSOID_MRMS = bytes.fromhex("02 00 00000000 00 0061 28ee 01 0061 52b0")
_SCAN_SOUTHWARD, _SCAN_NORTHWARD = 0x00, 0x40


def _latitude_longitude_section(
    rows: int, columns: int, earth: bytes, basic_angle: int, place: tuple[int, ...]
) -> bytes:
    parts = 1_000_000 if basic_angle else 0xFFFFFFFF
    head = struct.pack(">IBBIBBH", 72, 3, 0, rows * columns, 0, 0, 0) + earth
    numbers = struct.pack(">IIIIIIBIIII", columns, rows, basic_angle, parts, *place)
    return head + numbers + bytes([_SCAN_SOUTHWARD])


def lambert(rows: int, columns: int) -> Lattice:
    """HRRR's Lambert grid from its first point, northward; coarser where it has fewer points."""
    full_rows, full_columns = 1059, 1799
    step_y, step_x = 3_000_000 * full_rows // rows, 3_000_000 * full_columns // columns
    head = struct.pack(">IBBIBBH", 81, 3, 0, rows * columns, 0, 0, 30) + _SPHERE_NCEP
    place = (columns, rows, 21_138_123, 237_280_472, 8, 38_500_000, 262_500_000, step_x, step_y)
    cone = (0, _SCAN_NORTHWARD, 38_500_000, 38_500_000, 0, 0)
    section = head + struct.pack(">IIIIBIIII", *place) + struct.pack(">BBIIII", *cone)
    return Lattice(section, (rows, columns), np.linspace(21, 52, rows, dtype=np.float32))


def pack_complex(values: NDArray[np.float32], bits: int) -> Packed:
    """Template 5.3, complex packing with spatial differencing, by eccodes; `bits` a value before packing.

    Decimal scaling stays 0: set beside this packing, eccodes writes a constant field without a word.
    """
    eccodes = load_eccodes()
    rows, columns = values.shape
    handle = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    try:
        eccodes.codes_set(handle, "Ni", columns)
        eccodes.codes_set(handle, "Nj", rows)
        eccodes.codes_set(handle, "packingType", "grid_complex_spatial_differencing")
        eccodes.codes_set(handle, "bitsPerValue", bits)
        eccodes.codes_set_values(handle, values.ravel().astype(np.float64))
        encoded = eccodes.codes_get_message(handle)
    finally:
        eccodes.codes_release(handle)
    sections = grib_header.sections_of(memoryview(encoded))
    return Packed(b"".join(bytes(sections[n]) for n in (5, 6, 7)))


def pack_constant(value: float, points: int) -> Packed:
    """A field of one value: simple packing with 0 bits, as NOAA writes a dry or cloudless grid."""
    packing = struct.pack(">IBIHfHHBB", 21, 5, points, 0, value, 0, 0, 0, 0)
    return Packed(packing + _NO_BITMAP + struct.pack(">IB", 5, 7))


def pack_png(samples: NDArray[np.uint16], reference: float, decimal: int) -> Packed:
    """Template 5.41: value = (reference + sample) · 10^-decimal. Rows are filtered by the one above."""
    rows, columns = samples.shape
    big = samples.astype(">u2").view(np.uint8).reshape(rows, 2 * columns)
    lines = np.empty((rows, 1 + 2 * columns), dtype=np.uint8)
    lines[:, 0] = 2
    lines[0, 1:] = big[0]
    np.subtract(big[1:], big[:-1], out=lines[1:, 1:])
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 16, 0, 0, 0, 0)),
        (b"IDAT", isal_zlib.compress(lines.data, 1)),
        (b"IEND", b""),
    )
    png = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)
    packing = struct.pack(">IBIHfHHBB", 21, 5, samples.size, 41, reference, 0, decimal, 16, 0)
    return Packed(packing + _NO_BITMAP + struct.pack(">IB", 5 + len(png), 7) + png)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", isal_zlib.crc32(kind + content))
    )


_NO_BITMAP = struct.pack(">IBB", 6, 6, 255)


def inventory_line(number: int, offset: int, variable: str, level: str, window: str, cycle: datetime) -> str:
    """One line as wgrib2 writes it: "596:428200066:d=2025080100:APCP:surface:6-7 hour acc fcst:"."""
    return f"{number}:{offset}:d={cycle:%Y%m%d%H}:{variable}:{level}:{window}:"


def window_of(parameter: Parameter, lead: timedelta, reset: timedelta) -> Window:
    """The window of a parameter's message at this lead; sums and means restart every `reset`."""
    process = parameter.window.value.split()[0]
    if process == "instant":
        return Window(lead, lead)
    if parameter.window.value == "acc run":
        return Window(timedelta(0), lead, process)
    return Window((lead - timedelta(seconds=1)) // reset * reset, lead, process)
