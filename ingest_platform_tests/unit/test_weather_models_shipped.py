"""The shipped models against complete real inventories of their sources, and against what was asked for."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from ingest_platform.weather.config import load_models
from ingest_platform.weather.eccodes_library import load_eccodes
from ingest_platform.weather.model import Kind, Parameter, Window

MODELS = {model.id: model for model in load_models()}
GFS_LATER = (
    "gfs.t00z.pgrb2.0p25.f007",
    "20221014/gfs.t06z.pgrb2.0p25.f021",
    "20231104/gfs.t00z.pgrb2.0p25.f021",
)
GFS_FIRST = tuple(f"{day}gfs.t00z.pgrb2.0p25.f000" for day in ("", "20221014/", "20231104/"))
HRRR_LATER = (
    "hrrr.t00z.wrfsfcf08.grib2",
    "hrrr.t00z.wrfsfcf24.grib2",
    "20221014/hrrr.t09z.wrfsfcf05.grib2",
    "20231104/hrrr.t01z.wrfsfcf05.grib2",
)
HRRR_FIRST = (
    "hrrr.t00z.wrfsfcf00.grib2",
    "20221014/hrrr.t01z.wrfsfcf00.grib2",
    "20231104/hrrr.t01z.wrfsfcf00.grib2",
)
# What a window setting selects, in words of the inventory.
KIND_OF = {
    Window.INSTANT: "",
    Window.ACC_RUN: "acc",
    Window.ACC_RECENT: "acc",
    Window.AVE_RECENT: "ave",
    Window.MAX_RECENT: "max",
    Window.MIN_RECENT: "min",
}


@dataclass(frozen=True)
class Line:
    """One line of an inventory; `begin` is where its window begins, in hours after the cycle."""

    variable: str
    level: str
    kind: str
    begin: int


def lines(inventory: Path) -> Iterator[Line]:
    for text in inventory.read_text().splitlines():
        variable, level, window = text.split(":")[3:6]
        match = re.fullmatch(r"(\d+)-\d+ (hour|day) (acc|ave|max|min) fcst", window)
        if match is None:
            yield Line(variable, level, "", 0)
        else:
            yield Line(variable, level, match[3], int(match[1]) * (24 if match[2] == "day" else 1))


def selected(parameter: Parameter, level: str, inventory: list[Line]) -> list[Line]:
    same = [
        line
        for line in inventory
        if (line.variable, line.level, line.kind) == (parameter.variable, level, KIND_OF[parameter.window])
    ]
    if parameter.window is Window.ACC_RUN:
        return [line for line in same if line.begin == 0]
    return [line for line in same if line.begin == max(other.begin for other in same)]


@pytest.mark.case(16, 17)
@pytest.mark.parametrize(
    ("model", "name"),
    [*(("gfs", n) for n in GFS_LATER + GFS_FIRST), *(("hrrr", n) for n in HRRR_LATER + HRRR_FIRST)],
)
def test_every_configured_grid_is_exactly_one_message_of_the_real_file(
    real_data: Path, model: str, name: str
) -> None:
    """Else a grid is never found, or one of two windows is published under the other's name."""
    inventory = list(lines(real_data / "weather" / "idx" / f"{name}.idx"))
    is_first = name in GFS_FIRST + HRRR_FIRST

    counts = {
        (parameter.name, level): len(selected(parameter, level, inventory))
        for parameter in MODELS[model].parameters
        for level in parameter.levels()
        if not (is_first and parameter.not_at_lead_zero)
    }

    assert {grid: n for grid, n in counts.items() if n != 1} == {}


@pytest.mark.case(16)
@pytest.mark.parametrize("name", GFS_FIRST)
def test_what_is_left_out_at_lead_zero_has_no_message_there(real_data: Path, name: str) -> None:
    """Else a grid that exists is never fetched. (HRRR writes some at lead 0, with windows of no length.)"""
    inventory = list(lines(real_data / "weather" / "idx" / f"{name}.idx"))
    left_out = [p for p in MODELS["gfs"].parameters if p.not_at_lead_zero]

    assert [p.name for p in left_out if selected(p, p.levels()[0], inventory)] == []
    assert {p.window for p in left_out} == set(Window) - {Window.INSTANT}


def test_a_forecast_object_gives_the_set_that_was_sized() -> None:
    """Else an hour of GFS is no longer 69 MB of 541, and disks and links are too small."""
    grids = {id: sum(len(p.levels()) for p in MODELS[id].parameters) for id in ("gfs", "hrrr")}

    assert grids == {"gfs": 86, "hrrr": 40}


def test_the_defaults_are_the_table_that_was_asked_for() -> None:
    """Else data is gone, or polled, at other times than the user's plan says."""
    table = {
        model.id: (
            timedelta(seconds=model.poll_interval_seconds),
            timedelta(minutes=model.delay_minutes),
            timedelta(hours=model.retention_hours),
        )
        for model in MODELS.values()
    }

    hour, minute, day = timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)
    assert table == {
        "gfs": (hour, 4 * hour, 7 * day),
        "hrrr": (hour, 2 * hour, 3 * day),
        "goes_east": (5 * minute, 15 * minute, day),
        "goes_west": (5 * minute, 15 * minute, day),
        "mrms": (2 * minute, 2 * minute, day),
    }


def test_radar_sentinels_lie_outside_the_possible_values() -> None:
    """Else "no radar sees this place" is drawn as a dry place, or as rain."""
    for parameter in MODELS["mrms"].parameters:
        low, high = parameter.valid_range

        assert parameter.missing
        assert not [value for value in parameter.missing if low <= value <= high]


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("synthetic/MRMS_MergedReflectivityQCComposite_00.50_20261121-000037.grib2.gz", (209, 10, 0)),
        ("synthetic/MRMS_PrecipRate_00.00_20261121-000000.grib2.gz", (209, 6, 1)),
        ("hrrr/hrrr.t06z.wrfsfcf01-TMP.grib2", (0, 0, 0)),
        ("hrrr/hrrr.t06z.wrfsfcf01-UGRD.grib2", (0, 2, 2)),
        ("hrrr/hrrr.wrfsubhf.sample.grib2", (0, 16, 196)),
        ("gfs/gfs.complex.grib2", (0, 3, 5)),
    ],
)
def test_the_grib_numbers_are_those_of_the_files(
    real_data: Path, name: str, identity: tuple[int, int, int]
) -> None:
    """Else every message is refused as another field than was asked for."""
    import gzip

    eccodes = load_eccodes()
    path = real_data / "weather" / name
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    handle = eccodes.codes_new_from_message(data[: int.from_bytes(data[8:16], "big")])
    found = tuple(
        eccodes.codes_get(handle, key) for key in ("discipline", "parameterCategory", "parameterNumber")
    )
    eccodes.codes_release(handle)

    configured = {grib for model in MODELS.values() for p in model.parameters for grib in p.grib}
    assert found == identity
    assert identity in configured


def test_names_units_and_standard_names_are_written_as_cf_wants_them() -> None:
    """Else plotting and conversion tools do not know what an array holds."""
    units = {p.units for model in MODELS.values() for p in model.parameters}
    names = {p.standard_name for model in MODELS.values() for p in model.parameters if p.standard_name}

    assert units == {
        *("K", "m", "%", "m s-1", "Pa", "J kg-1", "kg m-2", "kg m-2 s-1", "dBZ", "m2 s-2", "W m-2"),
        *("1", "mm h-1"),
    }
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


def test_satellites_are_found_by_the_names_that_people_use() -> None:
    """Else ENABLED_MODELS=gfs,hrrr,goes16,mrms of an existing installation stops working."""
    chosen = load_models(only=["gfs", "hrrr", "goes16", "mrms"])

    assert [model.id for model in chosen] == ["gfs", "goes_east", "hrrr", "mrms"]
    assert {m.id for m in load_models(only=["goes"])} == {"goes_east", "goes_west"}
    assert [m.kind for m in load_models(only=["goes18"])] == [Kind.SATELLITE]
