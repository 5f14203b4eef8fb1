"""ABI L2 CMIP netCDF-4 files with invented clouds; layout, packing and names as in the satellites' files."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from ingest_platform.demo.synth import STRIP_ROWS, Field, noise_for, strips

CHUNK = STRIP_ROWS  # a strip is one row of chunks
FILL = 65535


@dataclass(frozen=True, slots=True)
class Band:
    """What differs by ABI band: product definition and user's guide, volume 5."""

    shape: tuple[int, int]
    microradians: int  # a pixel at nadir
    scale: float
    offset: float
    units: str
    standard_name: str
    wavelength: float  # µm


_REFLECTANCE = "toa_lambertian_equivalent_albedo_multiplied_by_cosine_solar_zenith_angle"
BANDS: Mapping[int, Band] = {
    2: Band((6000, 10000), 14, 0.00031746, 0.0, "1", _REFLECTANCE, 0.64),
    8: Band((1500, 2500), 56, 0.04224111, 138.05, "K", "toa_brightness_temperature", 6.19),
    13: Band((1500, 2500), 56, 0.06145332, 89.62, "K", "toa_brightness_temperature", 10.33),
}


@dataclass(frozen=True, slots=True)
class Satellite:
    """Where a satellite stands, and the first pixel's centre of its CONUS sector, in µrad at 2 km."""

    platform: str
    slot: str
    longitude: float
    west: int
    north: int


SATELLITES = {
    "G16": Satellite("G16", "GOES-East", -75.0, -101_332, 128_212),
    "G19": Satellite("G19", "GOES-East", -75.0, -101_332, 128_212),
    "G18": Satellite("G18", "GOES-West", -137.0, -69_972, 128_212),
}


def satellite_file(
    name: str,
    band_number: int,
    start: datetime,
    end: datetime,
    *,
    satellite: str = "G19",
    shape: tuple[int, int] | None = None,
    seed: int = 0,
) -> bytes:
    """One band of one scan; `name` is the file's own, as its key ends. `shape` is the band's unless given."""
    import h5py

    band = BANDS[band_number]
    where = SATELLITES[satellite]
    shape = shape or band.shape
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("earliest", "v110")) as file:
        _global_attributes(file, name, where, start, end)
        _axes(file, band, where, shape)
        _scalars(file, band_number, band, where, start, end)
        drift = int(start.timestamp() // 300)
        # Each satellite sees another part of the world: its place is part of the seed.
        _image(
            file,
            band,
            shape,
            strips(noise_for(shape, seed + band_number + abs(where.west)), shape, drift=drift),
        )
    return buffer.getvalue()


def _global_attributes(file: Any, name: str, where: Satellite, start: datetime, end: datetime) -> None:
    file.attrs.update(
        {
            "Conventions": "CF-1.7",
            "title": "ABI L2 Cloud and Moisture Imagery",
            "dataset_name": np.bytes_(name),
            "platform_ID": np.bytes_(where.platform),
            "orbital_slot": np.bytes_(where.slot),
            "scene_id": np.bytes_("CONUS"),
            "instrument_type": "GOES R Series Advanced Baseline Imager",
            "timeline_id": "ABI Mode 6",
            "time_coverage_start": f"{start:%Y-%m-%dT%H:%M:%S}.{start.microsecond // 100_000}Z",
            "time_coverage_end": f"{end:%Y-%m-%dT%H:%M:%S}.{end.microsecond // 100_000}Z",
            "history": "SYNTHETIC: invented values, not NOAA data",
        }
    )


def _axes(file: Any, band: Band, where: Satellite, shape: tuple[int, int]) -> None:
    """Radians, packed into 16 bits: the first pixel's centre and one step a pixel."""
    inset = (56 - band.microradians) / 2  # finer pixels begin nearer to the sector's edge
    # A smaller image is the middle of the sector: its corners may lie beside the earth.
    rows, columns = ((full - part) // 2 for full, part in zip(band.shape, shape, strict=True))
    for axis, count, first, step in (
        ("y", shape[0], where.north + inset - rows * band.microradians, -band.microradians),
        ("x", shape[1], where.west - inset + columns * band.microradians, band.microradians),
    ):
        variable = file.create_dataset(axis, data=np.arange(count, dtype=np.int16))
        variable.attrs.update(
            {
                "scale_factor": np.array([step * 1e-6], dtype=np.float32),
                "add_offset": np.array([first * 1e-6], dtype=np.float32),
                "units": "rad",
                "axis": axis.upper(),
                "standard_name": f"projection_{axis}_coordinate",
            }
        )
        variable.make_scale(axis)


# ABI counts seconds from noon of the first day of the century, J2000.
_J2000 = datetime(2000, 1, 1, tzinfo=UTC)


def _scalars(file: Any, number: int, band: Band, where: Satellite, start: datetime, end: datetime) -> None:
    middle = (start + (end - start) / 2 - _J2000).total_seconds()
    time = file.create_dataset("t", data=np.float64(middle))
    time.attrs.update({"units": "seconds since 2000-01-01 12:00:00", "standard_name": "time"})
    file.create_dataset("band_id", data=np.array([number], dtype=np.int8))
    file.create_dataset("band_wavelength", data=np.array([band.wavelength], dtype=np.float32))
    projection = file.create_dataset("goes_imager_projection", data=np.int32(-2147483647))
    projection.attrs.update(
        {
            "grid_mapping_name": "geostationary",
            "perspective_point_height": np.array([35786023.0]),
            "semi_major_axis": np.array([6378137.0]),
            "semi_minor_axis": np.array([6356752.31414]),
            "inverse_flattening": np.array([298.2572221]),
            "latitude_of_projection_origin": np.array([0.0]),
            "longitude_of_projection_origin": np.array([where.longitude]),
            "sweep_angle_axis": "x",
        }
    )


def _image(file: Any, band: Band, shape: tuple[int, int], clouds: Iterator[tuple[slice, Field]]) -> None:
    """CMI and its quality flags: zlib level 1, chunks of 250 × 250, no shuffle."""
    side = (min(CHUNK, shape[0]), min(CHUNK, shape[1]))
    image = file.create_dataset(
        "CMI", shape, "<i2", chunks=side, compression="gzip", compression_opts=1, fillvalue=-1
    )
    image.attrs.update(
        {
            "_FillValue": np.array([-1], dtype=np.int16),
            "_Unsigned": "true",
            "scale_factor": np.array([band.scale], dtype=np.float32),
            "add_offset": np.array([band.offset], dtype=np.float32),
            "valid_range": np.array([0, _HIGHEST], dtype=np.int16),
            "units": band.units,
            "standard_name": band.standard_name,
            "grid_mapping": "goes_imager_projection",
            "coordinates": "band_id band_wavelength t y x",
            "ancillary_variables": "DQF",
        }
    )
    for rows, strip in clouds:
        _write_chunks(image, _samples(band, strip, rows, shape).view(np.int16), rows.start, side)
    # No chunk of it is ever written: all pixels are good (0).
    file.create_dataset("DQF", shape, "i1", chunks=side, compression="gzip", fillvalue=0)
    for number, axis in enumerate("yx"):
        image.dims[number].attach_scale(file[axis])


def _write_chunks(image: Any, stored: NDArray[np.int16], row: int, side: tuple[int, int]) -> None:
    """One row of chunks, deflated here: ISA-L at level 1 is 10 × faster than HDF5's zlib."""
    for column in range(0, stored.shape[1], side[1]):
        tile = np.full(side, -1, dtype="<i2")
        part = stored[:, column : column + side[1]]
        tile[: part.shape[0], : part.shape[1]] = part
        image.id.write_direct_chunk((row, column), bytes(isal_zlib.compress(tile.tobytes(), 1)))


_HIGHEST = (1 << 12) - 1  # of the 12 bits that each of these bands has


def _samples(band: Band, clouds: Field, rows: slice, shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Packed reflectance or brightness temperature of some rows; the fill in the corner beyond the limb."""
    if band.units == "1":
        physical = np.clip(0.25 + 0.22 * clouds, 0, 1.2)
    else:
        physical = np.clip(268 - 16 * np.abs(clouds) - 6 * clouds, 180, 330)
    stored = np.clip((physical - band.offset) / band.scale, 0, _HIGHEST)
    samples = np.asarray(stored, dtype=np.uint16)
    down = np.arange(rows.start, rows.stop)[:, None] / shape[0]
    along = np.arange(shape[1])[None, :] / shape[1]
    samples[down + along < _LIMB] = FILL
    return samples


_LIMB = 0.04  # of the sector's height and width
