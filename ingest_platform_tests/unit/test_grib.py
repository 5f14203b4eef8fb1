"""What a GRIB2 message is recognised as: names, levels, windows, values, places."""

import struct
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ingest_platform.demo import grib_writer
from ingest_platform.demo.grib_writer import Lattice, Packed, Window
from ingest_platform.weather import grib
from ingest_platform.weather.grib_header import level_words, read_header
from ingest_platform.weather.idx import Identity
from ingest_platform_tests.unit.grib_messages import (
    CYCLE,
    GLOBE,
    HOUR,
    RAIN,
    TEMPERATURE,
    eccodes_values,
    png,
    temperature,
)


def test_a_message_is_named_as_the_inventory_names_it() -> None:
    """Without an inventory, the scan must find the same fields under the same names."""
    message = temperature()

    found = grib.identify(message, [TEMPERATURE, RAIN])

    assert found == Identity("TMP", "2 m above ground", "6 hour fcst")


@pytest.mark.case(16)
@pytest.mark.parametrize(
    ("number", "name"),
    [
        ((0, 19, 33), "var discipline=0 master_table=2 parmcat=19 parm=33"),
        ((0, 16, 201), "var discipline=0 center=7 local_table=1 parmcat=16 parm=201"),
    ],
)
def test_a_parameter_that_nobody_configured_has_a_name_and_is_no_error(
    number: tuple[int, int, int], name: str
) -> None:
    """One new parameter in a file of 743 must not stop the 86 that we want."""
    moment = Window(HOUR, HOUR)
    message = grib_writer.message(
        number, "surface", moment, CYCLE, GLOBE, grib_writer.pack_constant(0, GLOBE.shape[0] * GLOBE.shape[1])
    )

    found = grib.identify(message, [TEMPERATURE])

    assert found == Identity(name, "surface", "1 hour fcst")


@pytest.mark.case(17)
@pytest.mark.parametrize(
    ("start", "end", "process", "text"),
    [
        (0, 7 * 60, "acc", "0-7 hour acc fcst"),
        (6 * 60, 7 * 60, "acc", "6-7 hour acc fcst"),
        (18 * 60, 21 * 60, "ave", "18-21 hour ave fcst"),
        (0, 24 * 60, "acc", "0-1 day acc fcst"),
        (23 * 60, 24 * 60, "max", "23-24 hour max fcst"),
        (0, 0, "min", "0-0 day min fcst"),
        (480, 495, "acc", "480-495 min acc fcst"),
        (0, 0, None, "anl"),
        (7 * 60, 7 * 60, None, "7 hour fcst"),
        (24 * 60, 24 * 60, None, "24 hour fcst"),
        (495, 495, None, "495 min fcst"),
    ],
)
def test_windows_read_as_wgrib2_writes_them(start: int, end: int, process: str | None, text: str) -> None:
    """Two precipitation sums share variable and level; only the window tells them apart."""
    window = Window(timedelta(minutes=start), timedelta(minutes=end), process)
    message = grib_writer.message(
        (0, 1, 8),
        "surface",
        window,
        CYCLE,
        GLOBE,
        grib_writer.pack_constant(0, GLOBE.shape[0] * GLOBE.shape[1]),
        minutes=bool(end % 60),
    )

    header = read_header(message)

    assert header.window == text
    assert header.valid_time == CYCLE + timedelta(minutes=end)


LEVELS = [
    "surface",
    "mean sea level",
    "entire atmosphere",
    "entire atmosphere (considered as a single layer)",
    "2 m above ground",
    "500 mb",
    "0.01 mb",
    "30-0 mb above ground",
    "0-0.1 m below ground",
    "5000-2000 m above ground",
    "0.995 sigma level",
    "0.33-1 sigma layer",
    "PV=2e-06 (Km^2/kg/s) surface",
    "PV=-2e-06 (Km^2/kg/s) surface",
    "1 hybrid level",
    "1829 m above mean sea level",
    "253 K level",
    "0 m underground",
    "500-1000 mb",
    "boundary layer cloud layer",
    "highest tropospheric freezing level",
    "planetary boundary layer",
]


@pytest.mark.parametrize("level", LEVELS)
def test_levels_read_as_wgrib2_writes_them(level: str) -> None:
    """A level that reads differently is a configured grid that is never found."""
    assert read_header(temperature(level=level)).level == level


@given(st.integers(1, 110_000_000), st.sampled_from(["mb", "m above ground"]))
def test_every_valued_level_survives_writing_and_reading(thousandths: int, kind: str) -> None:
    """Else a mirror's inventory names levels that its messages do not have."""
    level = f"{thousandths / 1000:g} {kind}"

    first, second = grib_writer.surfaces_of(level)

    assert level_words(first, second) == level


# values


@pytest.mark.case(31)
def test_values_are_those_of_eccodes_to_the_last_bit() -> None:
    """A grid that differs by rounding cannot be checked against its source."""
    message = temperature()

    grid = grib.decode(message, TEMPERATURE, "2 m above ground")

    assert grid.values.dtype == np.float32
    assert grid.values.tobytes() == eccodes_values(message).tobytes()
    assert (grid.reference_time, grid.lead, grid.valid_time) == (CYCLE, 6 * HOUR, CYCLE + 6 * HOUR)


@pytest.mark.case(31)
def test_a_constant_field_of_no_bits_decodes() -> None:
    """A dry map is 188 bytes at NOAA, and is no missing map."""
    message = temperature(packed=grib_writer.pack_constant(273.15, 84))

    grid = grib.decode(message, TEMPERATURE, None)

    assert len(message) < 210
    assert (grid.values == np.float32(273.15)).all()


def with_bitmap(present: NDArray[np.bool_]) -> Packed:
    """A constant field of 9999, missing where not present."""
    count, bits = int(present.sum()), np.packbits(present.ravel()).tobytes()
    packing = struct.pack(">IBIHfHHBB", 21, 5, count, 0, 9999.0, 0, 0, 0, 0)
    return Packed(packing + struct.pack(">IBB", 6 + len(bits), 6, 0) + bits + struct.pack(">IB", 5, 7))


@pytest.mark.case(31)
def test_missing_is_what_the_bitmap_says_and_9999_is_a_value() -> None:
    """eccodes marks missing with 9999, which geopotential height reaches over every jet."""
    present = np.ones(GLOBE.shape, dtype=bool)
    present[2, 3] = present[6, 11] = False

    grid = grib.decode(temperature(packed=with_bitmap(present)), TEMPERATURE, None)

    assert (np.isnan(grid.values) == ~present).all()
    assert (grid.values[present] == 9999).all()


def test_an_all_missing_bitmap_is_a_grid_without_values() -> None:
    """A field that has no value anywhere is an answer, not damage."""
    nowhere = np.zeros(GLOBE.shape, dtype=bool)

    grid = grib.decode(temperature(packed=with_bitmap(nowhere)), TEMPERATURE, None)

    assert np.isnan(grid.values).all()


@pytest.mark.case(31)
@pytest.mark.parametrize(
    ("lattice", "first_y", "last_y"),
    [(GLOBE, 90.0, -90.0), (grib_writer.lambert(5, 9), -1_587_306.15, None)],
    ids=["southward", "northward"],
)
def test_rows_stay_in_the_files_order_and_the_coordinates_say_so(
    lattice: Lattice, first_y: float, last_y: float | None
) -> None:
    """A map upside down looks like weather until somebody compares."""
    grid = grib.decode(temperature(lattice), TEMPERATURE, None)

    assert grid.values[0, 0] == grid.values.min()
    assert grid.geometry.y[0] == pytest.approx(first_y, abs=0.01)
    assert last_y is None or grid.geometry.y[-1] == last_y
    assert (grid.geometry.y[0] < grid.geometry.y[-1]) == (last_y is None)


def test_longitudes_are_recorded_from_0_to_360_as_the_file_has_them() -> None:
    """Readers select by what the coordinate says."""
    grid = grib.decode(temperature(), TEMPERATURE, None)

    assert grid.geometry.x.tolist() == [30.0 * n for n in range(12)]
    assert grid.geometry.bbox == (-15.0, -90.0, 345.0, 90.0)


def test_equal_grid_sections_share_one_geometry() -> None:
    """85 messages a file project their corner once."""
    first, second = (grib.decode(temperature(), TEMPERATURE, None) for _ in range(2))

    assert first.geometry is second.geometry


@pytest.mark.case(31)
def test_sentinels_of_a_png_message_are_missing_and_the_rest_is_exact() -> None:
    """-999 means that no radar sees a place; as a value it drags every mean down."""
    samples = np.arange(84, dtype=np.uint16).reshape(GLOBE.shape) * 180
    message = temperature(packed=png(samples))
    radar = TEMPERATURE.model_copy(update={"missing": (-999.0, -99.0)})
    reference = eccodes_values(message).reshape(GLOBE.shape)

    grid = grib.decode(message, radar, None)

    sentinel = np.isin(reference, [-999, -99])
    assert sentinel.sum() == 2
    assert np.isnan(grid.values[sentinel]).all()
    assert grid.values[~sentinel].tobytes() == reference[~sentinel].tobytes()


@pytest.mark.case(32)
def test_seconds_are_kept() -> None:
    """Two radar mosaics lie in one minute; eccodes drops the seconds."""
    seen = datetime(2026, 11, 21, 0, 0, 37, tzinfo=UTC)
    moment = Window(timedelta(0), timedelta(0))
    message = grib_writer.message(
        (209, 10, 0),
        "500 m above mean sea level",
        moment,
        seen,
        grib_writer.mosaic(7, 14),
        png(np.zeros((7, 14), np.uint16)),
    )
    radar = TEMPERATURE.model_copy(update={"grib": ((209, 10, 0),)})

    grid = grib.decode(message, radar, None)

    assert (grid.reference_time, grid.valid_time, grid.lead) == (seen, seen, timedelta(0))
