"""GRIB2 messages of GFS, HRRR and MRMS: which field a message is, and its values.

Decodes one message at a time; framing of files, inventories and downloads lie elsewhere. GRIB2 has no
checksum, so a decoder's silence proves little: the header must name the wanted field, lengths must
add up, PNG payloads must match their CRC, and a value that is not finite refuses the message.
"""

import io
import zlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest_platform.errors import PermanentError
from ingest_platform.weather.eccodes_library import load_eccodes
from ingest_platform.weather.grib_geometry import geometry
from ingest_platform.weather.grib_header import NO_BITMAP, Header, read_header, signed
from ingest_platform.weather.idx import Identity
from ingest_platform.weather.model import Grid, Parameter, Window
from ingest_platform.weather.unusable import Unusable

type Payload = bytes | memoryview


def identify(payload: Payload, parameters: Sequence[Parameter]) -> Identity:
    """Variable, level and window of one message, in wgrib2's words; no value is decoded.

    A variable that no parameter configures gets wgrib2's name for the unknown: never an error.
    `Unusable` (framing) when the payload is not one whole GRIB2 message.
    """
    header = read_header(payload)
    names = {number: p.variable for p in parameters if p.variable for number in p.grib}
    variable = names.get(header.parameter_id, header.unnamed_variable)
    return Identity(variable=variable, level=header.level, window=header.window)


def decode(payload: Payload, parameter: Parameter, level: str | None) -> Grid:
    """The values of one message (float32, y × x in the file's scan order, NaN where missing).

    Bit-equal to eccodes' float64 values cast to float32. `level` is the wgrib2 text the message must
    have, None when the parameter has no level. `parameter.missing` sentinels become NaN.
    `Unusable` when the bytes are damaged (framing, decode) or hold another field (identity);
    `PermanentError` for a grid that is not supported. Thread-safe; the GIL is released while decoding.
    """
    header = read_header(payload)
    _require_identity(header, parameter, level)
    place = geometry(header.grid_section)
    shape = (place.y.size, place.x.size)
    values = _values(payload, header, shape, parameter.missing)
    return Grid(
        parameter=parameter,
        level=level or header.level,
        window=header.span,
        reference_time=header.reference_time,
        valid_time=header.valid_time,
        lead=header.end,
        geometry=place,
        values=values,
    )


def _require_identity(header: Header, parameter: Parameter, level: str | None) -> None:
    """Never a wrong grid under a right name: all mismatches at once."""
    wrong = []
    if header.parameter_id not in parameter.grib:
        expected = " or ".join("/".join(map(str, number)) for number in parameter.grib)
        wrong.append(f"parameter {'/'.join(map(str, header.parameter_id))} instead of {expected}")
    if level and _synonym(header.level) != _synonym(level):
        wrong.append(f"level {header.level!r} instead of {level!r}")
    if not _is_window(header, parameter.window):
        wrong.append(f"window {header.window!r} instead of {parameter.window}")
    if wrong:
        raise Unusable(
            f"the message is not {parameter.name}: {'; '.join(wrong)}. Nothing was written; "
            "if the inventory named it so, it belongs to another version of the file",
            "identity",
        )


def _synonym(level: str) -> str:
    """Types 10 and 200 both mean the whole column, and no NOAA variable has both."""
    return level.removesuffix(" (considered as a single layer)")


_PROCESSES = {
    Window.INSTANT: None,
    Window.ACC_RUN: "acc",
    Window.ACC_RECENT: "acc",
    Window.AVE_RECENT: "ave",
    Window.MAX_RECENT: "max",
    Window.MIN_RECENT: "min",
}


def _is_window(header: Header, window: Window) -> bool:
    since_cycle = window is not Window.ACC_RUN or header.start == timedelta(0)
    return header.process_word == _PROCESSES[window] and since_cycle


_PNG_PACKING = 41
# Bits a sample whose PNG is read here; others (1, 2, 4, 32) are rare and go to eccodes.
_PNG_DEPTHS = (8, 16, 24)


def _values(
    payload: Payload, header: Header, shape: tuple[int, int], missing: tuple[float, ...]
) -> NDArray[np.float32]:
    _require_packing(header)
    if (
        header.packing_template == _PNG_PACKING
        and header.bitmap == NO_BITMAP
        and _depth(header) in _PNG_DEPTHS
    ):
        return _png_values(payload, header, shape, missing)
    values = _eccodes_values(payload, header, shape)
    for sentinel in missing:
        values[values == np.float32(sentinel)] = np.nan
    return values


# Simple, complex, JPEG 2000, PNG and CCSDS packing: length of section 5. All begin with a reference value.
_PACKING_LENGTHS = {0: 21, 2: 47, 3: 49, 40: 23, 41: 21, 42: 25}


def _require_packing(header: Header) -> None:
    """eccodes reads the bits of a NaN or an infinity as some number, and makes a grid of it."""
    template, section = header.packing_template, header.packing_section
    if template not in _PACKING_LENGTHS:
        known = ", ".join(f"5.{t}" for t in _PACKING_LENGTHS)
        raise PermanentError(f"packing 5.{template}; known are {known}")
    if len(section) < _PACKING_LENGTHS[template]:
        raise Unusable(f"packing 5.{template} described in only {len(section)} bytes", "framing")
    _require_widths(template, section)
    reference = float(np.frombuffer(section[11:15], dtype=">f4")[0])
    if not np.isfinite(reference):
        raise Unusable(f"the packing's reference value is {reference}, which is not a number", "decode")


# Bits of a packed number: eccodes aborts the process on more (template 5.2: octets 20, 37 and 47; 5.3: order
# of differences in octet 48, their octets in 49).
_WIDEST_BITS = 32


def _require_widths(template: int, section: Payload) -> None:
    """Unusable if section 5 asks for what no file has: a wrong width there kills the process in eccodes."""
    widths = [section[19]] + ([section[36], section[46]] if template in (2, 3) else [])
    points, groups = (int.from_bytes(section[a : a + 4]) for a in (5, 31))
    wrong = max(widths) > _WIDEST_BITS or (template in (2, 3) and groups > points)
    if wrong or (template == 3 and (section[47] not in (1, 2) or section[48] > 4)):
        raise Unusable(f"packing 5.{template} asks for impossible widths or groups: bits {widths}", "decode")


def _depth(header: Header) -> int:
    """Bits a sample."""
    return header.packing_section[19]


# eccodes marks missing values by a number, 9999 unless told otherwise, which a height or a pressure may
# well be; no field reaches this one.
_MISSING_MARK = 1e36
# Packings that can mark missing values without a bitmap, and where section 5 says whether it does (0-based).
_MISSING_MANAGEMENT_AT = {2: 22, 3: 22}


def _eccodes_values(payload: Payload, header: Header, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Values by eccodes. cffi releases the GIL in every call, so threads scale."""
    eccodes = load_eccodes()
    message = eccodes.codes_new_from_message(bytes(payload))
    try:
        eccodes.codes_set(message, "missingValue", _MISSING_MARK)
        wide = eccodes.codes_get_values(message)
    except (eccodes.CodesInternalError, ValueError, MemoryError) as error:
        raise Unusable(
            f"eccodes cannot decode packing 5.{header.packing_template}: {error}", "decode"
        ) from error
    finally:
        eccodes.codes_release(message)
    if wide.size != shape[0] * shape[1]:
        raise Unusable(f"{wide.size:,} values for a grid of {shape[0]} × {shape[1]}", "decode")
    return _narrow(wide, header).reshape(shape)


def _narrow(wide: NDArray[np.float64], header: Header) -> NDArray[np.float32]:
    """float32 with NaN for the missing mark. Anything else that is not finite is damage."""
    with np.errstate(over="ignore"):  # an overflow is found as not finite
        values = wide.astype(np.float32)
    if _may_miss(header):
        values[wide == _MISSING_MARK] = np.nan
        sound = np.isfinite(values) | (wide == _MISSING_MARK)
    else:
        sound = np.isfinite(values)
    if not sound.all():
        count = int(values.size - np.count_nonzero(sound))
        raise Unusable(
            f"{count:,} of {values.size:,} values are not finite, yet no bitmap says missing", "decode"
        )
    return values


def _may_miss(header: Header) -> bool:
    """Whether the message has a way of its own to say missing."""
    at = _MISSING_MANAGEMENT_AT.get(header.packing_template)
    return header.bitmap != NO_BITMAP or (at is not None and header.packing_section[at] != 0)


def _png_values(
    payload: Payload, header: Header, shape: tuple[int, int], missing: tuple[float, ...]
) -> NDArray[np.float32]:
    """Values of template 5.41 by Pillow, which releases the GIL, and a table of all possible values.

    A 7000 × 3500 mosaic takes 90 to 290 ms; gribberish takes 140 to 380 ms and holds the GIL.
    """
    import PIL.Image

    png = memoryview(payload)[slice(*header.data)]
    depth = _depth(header)
    _require_png(png, depth, shape)
    table = _table(header.packing_section[11:20], missing) if depth < 24 else None
    values = np.empty(shape, dtype=np.float32)
    try:
        with PIL.Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            for rows, samples in _strips(image):
                values[rows] = (
                    _scale(_joined(samples), header.packing_section[11:19], missing)
                    if table is None
                    else table[samples]
                )
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise Unusable(f"the PNG of packing 5.41 does not decode: {error}", "decode") from error
    return values


# Rows taken at once: they and what is made of them stay in the cache, and need no fresh pages. A whole mosaic
# beside its values took 100 MB and 70 ms more, its float64s 400 MB.
_ROWS_AT_ONCE = 32


def _strips(image: Any) -> Iterator[tuple[slice, NDArray[Any]]]:
    """The image's samples, some rows at a time."""
    width, height = image.size
    for first in range(0, height, _ROWS_AT_ONCE):
        rows = slice(first, min(first + _ROWS_AT_ONCE, height))
        yield rows, np.asarray(image.crop((0, rows.start, width, rows.stop)))


# Colour type (grey or RGB) and bits a channel, by bits a sample: how GRIB2 maps samples to PNG.
_PNG_LAYOUTS = {8: (8, 0), 16: (16, 0), 24: (8, 2)}


def _require_png(png: memoryview, depth: int, shape: tuple[int, int]) -> None:
    """The image must be the grid's, and every chunk must match its CRC: what GRIB2 itself cannot check."""
    if bytes(png[:8]) != b"\x89PNG\r\n\x1a\n":
        raise Unusable(f"packing 5.41 without a PNG: {bytes(png[:8])!r}", "decode")
    for kind, content, crc in _chunks(png):
        if zlib.crc32(content, zlib.crc32(kind)) != crc:
            raise Unusable(f"PNG chunk {kind.decode('latin-1')} does not match its CRC", "decode")
        if kind == b"IHDR":
            size = (int.from_bytes(content[4:8]), int.from_bytes(content[:4]))
            layout = (content[8], content[9])
            if size != shape or layout != _PNG_LAYOUTS[depth]:
                raise Unusable(
                    f"PNG of {size[0]} × {size[1]}, bits and colour {layout}, in a grid of "
                    f"{shape[0]} × {shape[1]} with {depth} bits",
                    "decode",
                )


def _chunks(png: memoryview) -> Iterator[tuple[bytes, memoryview, int]]:
    """Kind, content and stated CRC of every chunk up to IEND; `Unusable` where the image ends before it."""
    at, kind = 8, b""
    while kind != b"IEND":
        length, kind = int.from_bytes(png[at : at + 4]), bytes(png[at + 4 : at + 8])
        end = at + 8 + length
        if end + 4 > len(png):
            raise Unusable("the PNG of packing 5.41 ends in the middle of a chunk", "decode")
        yield kind, png[at + 8 : end], int.from_bytes(png[end : end + 4])
        at = end + 4


# Radar products of a day share few packings; a table is at most 256 KiB.
@lru_cache(maxsize=32)
def _table(packing: bytes, missing: tuple[float, ...]) -> NDArray[np.float32]:
    """float32 value of every sample that the packing's bits can hold."""
    return _scale(np.arange(1 << packing[8]), packing, missing)


def _joined(channels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """24-bit samples, whose three bytes are the channels."""
    high, middle, low = (channels[..., channel].astype(np.int32) for channel in range(3))
    return np.asarray((high << 16) | (middle << 8) | low)


def _scale(
    samples: NDArray[np.signedinteger[Any]], packing: bytes, missing: tuple[float, ...]
) -> NDArray[np.float32]:
    """(R + X · 2^E) · 10^-D in float64, as eccodes does it; sentinels become NaN."""
    reference = float(np.frombuffer(packing[:4], dtype=">f4")[0])
    binary, decimal = signed(packing[4:6]), signed(packing[6:8])
    values = ((samples * 2.0**binary + reference) * 10.0**-decimal).astype(np.float32)
    for sentinel in missing:
        values[values == np.float32(sentinel)] = np.nan
    return values
