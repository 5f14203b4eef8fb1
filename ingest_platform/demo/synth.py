"""Files as NOAA writes them, at full or tiny size, with invented weather that looks like weather.

The formats are exact (templates, scan order, packings, inventories, seconds); the values are smooth noise
around each variable's usual profile, the same for the same seed. Nothing here is NOAA data.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache, partial

import numpy as np
from isal import igzip
from numpy.typing import NDArray

from ingest_platform.demo import grib_writer
from ingest_platform.demo.grib_writer import Lattice, Packed, Window, window_of
from ingest_platform.weather.grib_header import read_header
from ingest_platform.weather.model import Model, Parameter

type Field = NDArray[np.float32]

GFS_SHAPE = (721, 1440)
HRRR_SHAPE = (1059, 1799)
MRMS_SHAPE = (3500, 7000)

# Bits a value before packing: what brings a message to the size it has at NOAA, 0.3 to 1.2 MB.
_BITS = 13
_FIELDS_DISTINCT = 6


@dataclass(frozen=True, slots=True)
class ForecastFile:
    """A GRIB2 file and its wgrib2 inventory."""

    grib: bytes
    index: str


@dataclass(frozen=True, slots=True)
class ForecastPaint:
    """Packed fields of one forecast model, to write any cycle and lead from."""

    lattice: Lattice
    fields: Mapping[str, Packed]


def lattice_of(model: Model, shape: tuple[int, int] | None = None) -> Lattice:
    """The grid of GFS or HRRR, with other numbers of points if asked."""
    if model.family == "hrrr":
        return grib_writer.lambert(*(shape or HRRR_SHAPE))
    return grib_writer.latitude_longitude(*(shape or GFS_SHAPE))


def paint(model: Model, lattice: Lattice, threads: Executor, *, seed: int = 0) -> ForecastPaint:
    """Paint and pack each distinct field once; 20 to 40 of them, 0.2 s each at full size."""
    noises = [_noise(lattice.shape, seed + n) for n in range(_FIELDS_DISTINCT)]
    names = sorted(
        {_field_name(p.variable or "", level) for p in _all_parameters(model) for level in p.levels()}
    )
    packed = threads.map(lambda n: _pack(names[n], lattice, noises, n), range(len(names)))
    return ForecastPaint(lattice, dict(zip(names, packed, strict=True)))


def forecast_file(model: Model, paint: ForecastPaint, cycle: datetime, lead: timedelta) -> ForecastFile:
    """All configured messages of one lead, both precipitation windows, and some that nobody asked for.

    Accumulations and other windows are missing at lead 0. Values rise by packing steps with
    the lead and the length of the window, so that messages can be told apart.
    """
    reset = timedelta(hours=model.cadence_minutes // 60)
    parts: list[bytes] = []
    lines: list[str] = []
    offset = 0
    for parameter in _all_parameters(model):
        if parameter.not_at_lead_zero and not lead:
            continue
        window = window_of(parameter, lead, reset)
        for level in parameter.levels():
            part = _message(parameter, level, window, cycle, paint)
            text = read_header(part).window
            lines.append(
                grib_writer.inventory_line(
                    len(lines) + 1, offset, parameter.variable or "", level, text, cycle
                )
            )
            parts.append(part)
            offset += len(part)
    return ForecastFile(b"".join(parts), "".join(f"{line}\n" for line in lines))


def _message(
    parameter: Parameter, level: str, window: Window, cycle: datetime, paint: ForecastPaint
) -> bytes:
    name = _field_name(parameter.variable or "", level)
    packed = paint.fields[name]
    # Twice the end less the start: windows that end together differ as well.
    rise = packed.quantum * ((2 * window.end - window.start) / timedelta(hours=1))
    shifted = packed.shifted(_lift(parameter.variable or "", level) + rise)
    return grib_writer.message(parameter.grib[0], level, window, cycle, paint.lattice, shifted)


def _all_parameters(model: Model) -> tuple[Parameter, ...]:
    """The configured ones, and after every fifth another that no one configured, as in a real file."""
    mixed: list[Parameter] = []
    decoys = iter(_decoys())
    for count, parameter in enumerate(model.parameters, 1):
        mixed.append(parameter)
        if count % 5 == 0 and (decoy := next(decoys, None)) is not None:
            mixed.append(decoy)
    return tuple(mixed)


def _decoys() -> tuple[Parameter, ...]:
    def decoy(variable: str, number: tuple[int, int, int], level: str) -> Parameter:
        return Parameter(
            name=f"decoy_{variable.lower()}",
            units="1",
            long_name=variable,
            valid_range=(-1e9, 1e9),
            variable=variable,
            grib=(number,),
            level=level,
        )

    return (
        decoy("VVEL", (0, 2, 8), "500 mb"),
        decoy("SOILW", (2, 0, 192), "0-0.1 m below ground"),
        decoy("TMP", (0, 0, 0), "80 m above ground"),
        decoy("HGT", (0, 3, 5), "0C isotherm"),
        decoy("TMP", (0, 0, 0), "tropopause"),
    )


def _field_name(variable: str, level: str) -> str:
    """Levels of pressure share one field, moved by `_lift`."""
    return f"{variable}:{'mb' if level.endswith(' mb') else level}"


def _pack(name: str, lattice: Lattice, noises: Sequence[Field], number: int) -> Packed:
    variable = name.split(":")[0]
    if variable == "CFRZR":
        return grib_writer.pack_constant(0.0, math.prod(lattice.shape))
    # The same noise elsewhere on the map is another weather.
    noise = np.roll(noises[number % len(noises)], number * lattice.shape[1] // 7, axis=1)
    profile = _PROFILES.get(variable, _PROFILES["VVEL"])
    values = profile(noise, np.radians(lattice.latitude)[:, None])
    return grib_writer.pack_complex(np.broadcast_to(values, lattice.shape).astype(np.float32), _BITS)


def _lift(variable: str, level: str) -> float:
    """How much higher a variable lies on this pressure level than at 1000 hPa, in a standard atmosphere."""
    if not level.endswith(" mb"):
        return 0.0
    height: float = 44_330 * (1 - (float(level.removesuffix(" mb")) / 1013.25) ** 0.1903)
    match variable:
        case "HGT":
            return height
        case "TMP":
            return -0.0065 * min(height, 11_000)
        case "UGRD":
            return 25 * math.exp(-(((height - 11_000) / 5_000) ** 2))
        case _:
            return 0.0


# The spectrum of weather maps falls about like this; a larger exponent looks like soup, a smaller like sand.
_SPECTRAL_SLOPE = 1.9


def _noise(shape: tuple[int, int], seed: int) -> Field:
    """Smooth noise of mean 0 and deviation 1, periodic in both directions."""
    rows, columns = shape
    generator = np.random.default_rng(seed)
    wave = np.hypot(np.fft.fftfreq(rows)[:, None] * rows, np.fft.rfftfreq(columns)[None, :] * columns)
    wave[0, 0] = np.inf
    phases = generator.standard_normal(wave.shape) + 1j * generator.standard_normal(wave.shape)
    field = np.fft.irfft2(phases * wave**-_SPECTRAL_SLOPE, s=shape)
    return np.asarray(field / field.std(), dtype=np.float32)


def radar_file(
    parameter: Parameter, valid: datetime, *, shape: tuple[int, int] = MRMS_SHAPE, seed: int = 0
) -> bytes:
    """A gzipped MRMS product: PNG packing, sentinels for no coverage and no echo, time to the second."""
    lattice = grib_writer.mosaic(*shape)
    echoes = noise_for(shape, seed)
    scale = _rain if parameter.grib[0][1] == _MRMS_PRECIPITATION else _reflectivity
    samples = np.empty(shape, dtype=np.uint16)
    for rows, strip in strips(echoes, shape, drift=int(valid.timestamp() // 120)):
        samples[rows] = scale.samples(strip)
    samples[_beyond_coverage(lattice)] = 0  # the lowest value is the sentinel of no coverage
    level = f"{float((parameter.product or '_0').rsplit('_', 1)[1]) * 1000:g} m above mean sea level"
    moment = Window(timedelta(0), timedelta(0))
    packed = grib_writer.pack_png(samples, scale.reference, scale.decimal)
    part = grib_writer.message(parameter.grib[0], level, moment, valid, lattice, packed)
    return bytes(igzip.compress(part, 1, mtime=0))


# The noise is made this many times coarser and enlarged: an FFT of 24.5 million points takes 4 s.
_COARSE = 4
# Rows enlarged at once: keeps C02, 60 million pixels, below 20 MB of floats.
STRIP_ROWS = 250


@lru_cache(maxsize=8)
def noise_for(shape: tuple[int, int], seed: int) -> Field:
    """Coarse noise to be enlarged to `shape` by `strips`."""
    rows, columns = (max(n // _COARSE, 4) for n in shape)
    return _noise((rows, columns), seed)


def strips(coarse: Field, shape: tuple[int, int], *, drift: int = 0) -> Iterator[tuple[slice, Field]]:
    """The noise at full size, some rows at a time, moved eastward by `drift` coarse cells."""
    import PIL.Image

    image = PIL.Image.fromarray(np.roll(coarse, drift, axis=1))
    per_row = coarse.shape[0] / shape[0]
    for first in range(0, shape[0], STRIP_ROWS):
        rows = slice(first, min(first + STRIP_ROWS, shape[0]))
        box = (0.0, rows.start * per_row, float(coarse.shape[1]), rows.stop * per_row)
        size = (shape[1], rows.stop - rows.start)
        yield rows, np.asarray(image.resize(size, PIL.Image.Resampling.BILINEAR, box), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class _RadarScale:
    """Samples of an echo, and the packing that makes values of them."""

    samples: Callable[[Field], NDArray[np.uint16]]
    reference: float
    decimal: int


def _reflectivity_samples(echo: Field) -> NDArray[np.uint16]:
    """Half dBZ in tenths above -999; -99 where radars see no echo."""
    tenths = np.clip(echo * 300 - 200, 0, 700).astype(np.int32) // 5 * 5
    return np.asarray(np.where(tenths > 0, tenths + 9990, 9000), dtype=np.uint16)


def _rain_samples(echo: Field) -> NDArray[np.uint16]:
    """Tenths of mm/h above -3; 0 where it is dry."""
    return np.asarray(np.clip((echo - 0.8) * 150, 0, 1500) + 30, dtype=np.uint16)


_MRMS_PRECIPITATION = 6  # category
_reflectivity = _RadarScale(_reflectivity_samples, -9990.0, 1)
_rain = _RadarScale(_rain_samples, -30.0, 1)


def _beyond_coverage(lattice: Lattice) -> NDArray[np.bool_]:
    """Corners that no radar sees: outside an ellipse over the grid."""
    rows, columns = lattice.shape
    y, x = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)[None, :]
    return np.asarray(y * y + x * x > 1.5)


def _polar(latitude: Field) -> Field:
    return np.asarray(np.sin(latitude) ** 2)


type _Profile = Callable[[Field, Field], Field]


def _wet(scale: float, threshold: float, noise: Field, latitude: Field) -> Field:
    """Zero over most of the map, patches of it elsewhere."""
    return np.asarray(np.maximum(noise - threshold, 0) * scale * np.abs(np.cos(latitude)) ** 0.5)


# What a variable looks like: mean by latitude (radians), and how strongly the weather moves it.
_PROFILES: Mapping[str, _Profile] = {
    "TMP": lambda n, y: 300 - 48 * _polar(y) + 4 * n,
    "DPT": lambda n, y: 293 - 48 * _polar(y) + 5 * n,
    "TMAX": lambda n, y: 303 - 48 * _polar(y) + 4 * n,
    "TMIN": lambda n, y: 296 - 48 * _polar(y) + 4 * n,
    "RH": lambda n, y: np.clip(60 + 22 * n + 0 * y, 2, 100),
    "HGT": lambda n, y: 110 - 220 * _polar(y) + 45 * n,
    "UGRD": lambda n, y: 7 * np.sin(3 * np.abs(y)) + 6 * n,
    "VGRD": lambda n, y: 6 * n + 0 * y,
    "GUST": lambda n, y: 3 + 5 * np.abs(n) + 0 * y,
    "WIND": lambda n, y: 2 + 4 * np.abs(n) + 0 * y,
    "PRMSL": lambda n, y: 101_400 - 900 * _polar(y) + 750 * n,
    "MSLMA": lambda n, y: 101_400 - 300 * _polar(y) + 750 * n,
    "PRES": lambda n, y: 97_000 - 900 * _polar(y) + 1_900 * n,
    "VIS": lambda n, y: np.clip(20_000 + 9_000 * n + 0 * y, 200, 24_100),
    "CAPE": partial(_wet, 1500.0, 0.3),
    "CIN": lambda n, y: -_wet(120.0, 0.2, n, y),
    "PWAT": lambda n, y: np.maximum(42 * np.cos(y) ** 2 + 7 * n, 0.5),
    "REFC": lambda n, y: np.clip(28 * n - 10 + 0 * y, -20, 62),
    "REFD": lambda n, y: np.clip(26 * n - 14 + 0 * y, -20, 60),
    "TCDC": lambda n, y: np.clip(50 + 60 * n + 0 * y, 0, 100),
    "APCP": partial(_wet, 9.0, 0.7),
    "PRATE": partial(_wet, 2e-3, 0.7),
    "SNOD": lambda n, y: np.maximum(_polar(y) * 1.4 - 0.8 + 0.1 * n, 0),
    "HPBL": lambda n, y: np.clip(900 + 500 * n + 0 * y, 30, 4_000),
    "HLCY": lambda n, y: 60 + 90 * n + 0 * y,
    "MXUPHL": partial(_wet, 60.0, 1.2),
    "DSWRF": lambda n, y: np.clip(700 * np.cos(y) + 120 * n, 0, 1_100),
    "VVEL": lambda n, y: 0.4 * n + 0 * y,
}
