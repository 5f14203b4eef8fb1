"""GRIB2 messages that tests write, and what eccodes reads of them."""

from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from ingest_platform.demo import grib_writer
from ingest_platform.demo.grib_writer import Lattice, Packed, Window
from ingest_platform.weather import model as weather
from ingest_platform.weather.eccodes_library import load_eccodes
from ingest_platform.weather.model import Parameter

CYCLE = datetime(2026, 11, 21, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
GLOBE = grib_writer.latitude_longitude(7, 12)
TEMPERATURE = Parameter(
    name="temperature_2m",
    units="K",
    long_name="Temperature at 2 m",
    valid_range=(150, 350),
    variable="TMP",
    grib=((0, 0, 0),),
    level="2 m above ground",
)
RAIN = Parameter(
    name="precipitation_recent",
    units="kg m-2",
    long_name="Precipitation",
    valid_range=(0, 1e4),
    variable="APCP",
    grib=((0, 1, 8),),
    level="surface",
    window=weather.Window.ACC_RECENT,
)


def smooth(lattice: Lattice = GLOBE) -> NDArray[np.float32]:
    rows, columns = lattice.shape
    return (np.add.outer(np.arange(rows), np.arange(columns)) * 0.7 + 270).astype(np.float32)


def temperature(
    lattice: Lattice = GLOBE, packed: Packed | None = None, window: Window | None = None, level: str = ""
) -> bytes:
    """A message that is TEMPERATURE unless told otherwise."""
    return grib_writer.message(
        (0, 0, 0),
        level or "2 m above ground",
        window or Window(6 * HOUR, 6 * HOUR),
        CYCLE,
        lattice,
        packed or grib_writer.pack_complex(smooth(lattice), 12),
    )


def eccodes_values(message: bytes) -> NDArray[np.float32]:
    eccodes = load_eccodes()
    handle = eccodes.codes_new_from_message(message)
    try:
        return np.asarray(eccodes.codes_get_values(handle).astype(np.float32))
    finally:
        eccodes.codes_release(handle)


# identity


def png(samples: NDArray[np.uint16]) -> Packed:
    return grib_writer.pack_png(samples, -9990.0, 1)
