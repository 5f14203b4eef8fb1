"""The generator writes NOAA's formats: eccodes and HDF5 read them as they read the real ones."""

import gzip
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import pytest

from ingest_platform.demo import synth
from ingest_platform.demo.synth_abi import satellite_file
from ingest_platform.weather import goes, grib
from ingest_platform.weather.config import load_models
from ingest_platform.weather.eccodes_library import load_eccodes
from ingest_platform.weather.model import Model, Window
from ingest_platform.weather.unusable import Unusable

CYCLE = datetime(2026, 11, 21, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
TINY = (13, 24)


@dataclass(frozen=True)
class Line:
    """One line of an inventory."""

    offset: int
    variable: str
    level: str
    window: str


@cache
def model(name: str) -> Model:
    (found,) = load_models(only=[name])
    return found


def written(name: str, lead: int, shape: tuple[int, int] = TINY, seed: int = 0) -> synth.ForecastFile:
    with ThreadPoolExecutor(2) as threads:
        painted = synth.paint(model(name), synth.lattice_of(model(name), shape), threads, seed=seed)
    return synth.forecast_file(model(name), painted, CYCLE, lead * HOUR)


def lines(index: str) -> list[Line]:
    fields = [line.split(":") for line in index.splitlines()]
    assert all(len(f) == 7 and f[2] == f"d={CYCLE:%Y%m%d%H}" and f[6] == "" for f in fields)
    assert [f[0] for f in fields] == [str(n) for n in range(1, len(fields) + 1)]
    return [Line(int(f[1]), f[3], f[4], f[5]) for f in fields]


def messages(file: synth.ForecastFile) -> list[tuple[Line, bytes]]:
    listed = lines(file.index)
    ends = [*(line.offset for line in listed[1:]), len(file.grib)]
    return [(line, file.grib[line.offset : end]) for line, end in zip(listed, ends, strict=True)]


def keys(message: bytes, *names: str) -> dict[str, Any]:
    eccodes = load_eccodes()
    handle = eccodes.codes_new_from_message(message)
    try:
        return {name: eccodes.codes_get(handle, name, ktype=int) for name in names}
    finally:
        eccodes.codes_release(handle)


@pytest.mark.parametrize("name", ["gfs", "hrrr"])
def test_the_inventory_names_every_message_as_the_message_names_itself(name: str) -> None:
    """A mirror whose inventory is wrong tests the wrong thing."""
    file = written(name, 3)

    decoys = {"VVEL", "SOILW"}
    for line, message in messages(file):
        found = grib.identify(message, model(name).parameters)
        assert (found.level, found.window) == (line.level, line.window)
        assert found.variable == line.variable or line.variable in decoys


@pytest.mark.parametrize("name", ["gfs", "hrrr"])
def test_every_configured_grid_is_there_once_and_within_its_range(name: str) -> None:
    """Completeness checks on the mirror must reach 100 %."""
    file = written(name, 7)
    offered = messages(file)

    for parameter in model(name).parameters:
        for level in parameter.levels():
            found = 0
            for line, message in offered:
                if (line.variable, line.level) == (parameter.variable, level):
                    try:
                        grid = grib.decode(message, parameter, level)
                    except Unusable:
                        continue
                    recent = parameter.window is not Window.ACC_RECENT or not grid.window.startswith("0-")
                    low, high = parameter.valid_range
                    assert low <= grid.values.min() <= grid.values.max() <= high, parameter.name
                    found += recent
            assert found == 1, f"{parameter.name} {level}"


@pytest.mark.case(17)
def test_precipitation_comes_in_both_windows_and_not_at_lead_zero() -> None:
    """As at NOAA: two messages share variable and level."""
    seventh = [line.window for line in lines(written("gfs", 7).index) if line.variable == "APCP"]
    analysis = written("gfs", 0)

    assert sorted(seventh) == ["0-7 hour acc fcst", "6-7 hour acc fcst"]
    assert {line.window for line in lines(analysis.index)} == {"anl"}


def test_the_file_holds_messages_that_nobody_asked_for() -> None:
    """Else a whole download and a subset cannot be told apart."""
    variables = {line.variable for line in lines(written("gfs", 1).index)}

    assert {"VVEL", "SOILW"} <= variables
    assert not {"VVEL", "SOILW"} & {p.variable for p in model("gfs").parameters}


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others() -> None:
    """A failing run must be repeatable."""
    assert written("gfs", 1) == written("gfs", 1)
    assert written("gfs", 1).grib != written("gfs", 1, seed=5).grib


def test_leads_can_be_told_apart_by_their_values() -> None:
    """A grid of the wrong lead must not pass for the right one."""
    first, second = (messages(written("gfs", lead))[0][1] for lead in (1, 2))
    parameter = model("gfs").parameters[0]

    one, two = (grib.decode(m, parameter, None).values for m in (first, second))

    assert (two > one).all()


def test_a_full_gfs_message_has_noaas_layout() -> None:
    """Template, scan order and size decide what decoding costs."""
    lattice = synth.lattice_of(model("gfs"))
    with ThreadPoolExecutor(1) as threads:
        single = model("gfs").model_copy(update={"parameters": model("gfs").parameters[:1]})
        file = synth.forecast_file(single, synth.paint(single, lattice, threads), CYCLE, HOUR)
    message = messages(file)[0][1]

    found = keys(message, "Ni", "Nj", "dataRepresentationTemplateNumber", "jScansPositively", "forecastTime")

    assert found == {
        "Ni": 1440,
        "Nj": 721,
        "dataRepresentationTemplateNumber": 3,
        "jScansPositively": 0,
        "forecastTime": 1,
    }
    assert 250_000 < len(message) < 1_300_000


def test_hrrrs_grid_is_where_noaa_puts_it() -> None:
    """A shifted projection is off by counties."""
    lattice = synth.lattice_of(model("hrrr"))
    (message,) = [m for _, m in messages(written("hrrr", 1, (9, 15)))][:1]

    found = keys(
        message, "latitudeOfFirstGridPoint", "longitudeOfFirstGridPoint", "LoV", "Latin1", "jScansPositively"
    )

    assert found == {
        "latitudeOfFirstGridPoint": 21138123,
        "longitudeOfFirstGridPoint": 237280472,
        "LoV": 262500000,
        "Latin1": 38500000,
        "jScansPositively": 1,
    }
    assert lattice.shape == (1059, 1799)


@pytest.mark.case(32)
def test_a_radar_product_has_noaas_packing_seconds_and_sentinels() -> None:
    """The mirror's mosaics must be as awkward as the real ones."""
    (parameter, *_) = model("mrms").parameters
    valid = datetime(2026, 11, 21, 0, 0, 37, tzinfo=UTC)
    message = gzip.decompress(synth.radar_file(parameter, valid, shape=(35, 70)))

    found = keys(message, "dataRepresentationTemplateNumber", "second", "discipline")
    grid = grib.decode(message, parameter.model_copy(update={"missing": ()}), None)

    assert found == {"dataRepresentationTemplateNumber": 41, "second": 37, "discipline": 209}
    assert {-999.0, -99.0} <= set(grid.values.ravel().tolist())
    assert grid.valid_time == valid


def test_a_full_radar_mosaic_decodes_as_eccodes_does_it() -> None:
    """24.5 million cells by a path of our own."""
    (_, parameter) = model("mrms").parameters
    message = gzip.decompress(synth.radar_file(parameter, CYCLE))
    eccodes = load_eccodes()
    handle = eccodes.codes_new_from_message(message)
    reference = eccodes.codes_get_values(handle).astype(np.float32).reshape(3500, 7000)
    eccodes.codes_release(handle)

    grid = grib.decode(message, parameter, None)

    missing = np.isin(reference, np.array(parameter.missing, dtype=np.float32))
    assert np.array_equal(np.isnan(grid.values), missing)
    assert grid.values[~missing].tobytes() == reference[~missing].tobytes()
    assert grid.geometry.bbox == pytest.approx((230.0, 20.0, 300.0, 55.0))


def test_a_full_c02_scan_has_noaas_size() -> None:
    """60 million pixels are what the satellite path must bear."""
    (parameter, *_) = model("goes_east").parameters
    name = "OR_ABI-L2-CMIPC-M6C02_G19_s20263250601173_e20263250603546_c20263250604031.nc"

    payload = satellite_file(name, 2, CYCLE, CYCLE + timedelta(seconds=157))
    grid = goes.decode(payload, parameter)

    assert grid.values.shape == (6000, 10000)
    assert grid.reference_time == datetime(2026, 11, 21, 6, 1, 17, 300_000, tzinfo=UTC)
    assert 10e6 < len(payload) < 70e6
