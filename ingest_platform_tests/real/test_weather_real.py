"""Real files, sound and damaged, through the whole chain, on a folder and on S3: `open_weather` gives what
eccodes alone reads, bit for bit. The model is a YAML file of the user's own, as anyone may add one.
"""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ingest_platform.weather import open_weather
from ingest_platform.weather.config import load_models
from ingest_platform.weather.eccodes_library import load_eccodes
from ingest_platform.weather.keys import template
from ingest_platform.weather.model import Model
from ingest_platform_tests.services.s3 import S3Server
from ingest_platform_tests.weather_world import World, messages, world

FORECAST = """
id: {id}
family: own
title: A model of the user's own
kind: forecast
sources:
  - {{since: 2020-01-01, bucket: own, key: "{{cycle:%Y%m%d}}/{{cycle:%H}}/f{{lead:03}}", index: .idx}}
horizons:
  - {{cycles: [0, 6, 12, 18], leads: [{{first: 0, last: 200}}]}}
cadence_minutes: 360
poll_interval_seconds: 60
delay_minutes: 0
complete_after_minutes: 400
retention_hours: 48
keep_latest: 1
parameters:
{parameters}
"""
PARAMETER = (
    '  - {{name: {name}, variable: {variable}, grib: [[{grib}]], level: "{level}", units: "1",'
    " long_name: {name}, valid_range: [-1.0e+9, 1.0e+9]}}"
)


@dataclass(frozen=True)
class Sample:
    """One real file: what it holds, and of when."""

    files: tuple[str, ...]
    cycle: datetime
    lead: int
    parameters: tuple[tuple[str, str, str, str], ...]  # array name, wgrib2 name, GRIB id, level


WAVE = Sample(
    ("nasty/ok4.grib2",),
    datetime(2023, 8, 23, 18, tzinfo=UTC),
    1,
    (
        ("wind_speed", "WIND", "0, 2, 1", "surface"),
        ("wind_direction", "WDIR", "0, 2, 0", "surface"),
        ("u_wind", "UGRD", "0, 2, 2", "surface"),
        ("v_wind", "VGRD", "0, 2, 3", "surface"),
    ),
)
HRRR = Sample(
    tuple(f"hrrr/hrrr.t06z.wrfsfcf01-{name}.grib2" for name in ("TMP", "UGRD", "CFRZR")),
    datetime(2023, 7, 22, 6, tzinfo=UTC),
    1,
    (
        ("temperature", "TMP", "0, 0, 0", "surface"),
        ("u_wind_10m", "UGRD", "0, 2, 2", "10 m above ground"),
        ("freezing_rain", "CFRZR", "0, 1, 34", "surface"),
    ),
)
HEIGHT = (("height_500", "HGT", "0, 3, 5", "500 mb"),)
COMPLEX = Sample(("gfs/gfs.complex.grib2",), datetime(2020, 10, 26, tzinfo=UTC), 24, HEIGHT)
JPEG = Sample(("gfs/gfs.jpeg.grib2",), datetime(2022, 2, 10, tzinfo=UTC), 24, HEIGHT)
PNG = Sample(("gfs/gfs.png.grib2",), datetime(2022, 2, 10, tzinfo=UTC), 24, HEIGHT)
CONSTANT = Sample(
    ("gfs/gfs.t18z.pgrb2.0p25.f186-RH.grib2",),
    datetime(2023, 1, 4, 18, tzinfo=UTC),
    186,
    (("humidity", "RH", "0, 1, 1", "0.7 mb"),),
)
SAMPLES = {"wave": WAVE, "hrrr": HRRR, "complex": COMPLEX, "jpeg": JPEG, "png": PNG, "constant": CONSTANT}

type MakeWorld = Callable[[Sample], tuple[World, Model]]


@pytest.fixture(params=["file", "s3"])
def make_world(request: pytest.FixtureRequest, tmp_path: Path) -> MakeWorld:
    store = {}
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        store = {"INGEST_STORE_URL": f"s3://{server.fresh_bucket()}/own", **server.environment()}
    return lambda sample: _world(tmp_path, sample, store)


@pytest.fixture
def wave(tmp_path: Path) -> tuple[World, Model]:
    return _world(tmp_path, WAVE, {})


def _world(root: Path, sample: Sample, store: dict[str, str]) -> tuple[World, Model]:
    folder = root / "models"
    folder.mkdir()
    lines = [PARAMETER.format(name=n, variable=v, grib=g, level=x) for n, v, g, x in sample.parameters]
    (folder / "own.yaml").write_text(FORECAST.format(id="own", parameters="\n".join(lines)))
    place = world(root, INGEST_WEATHER_MODELS=str(folder), **store)
    place.at = sample.cycle + timedelta(hours=8)
    return place, load_models(folder, only=["own"])[0]


def body(real_data: Path, sample: Sample) -> bytes:
    return b"".join((real_data / "weather" / name).read_bytes() for name in sample.files)


def publish(place: World, model: Model, sample: Sample, content: bytes, index: bytes | None = None) -> None:
    key = template(model.sources[0].key).render({"cycle": sample.cycle, "lead": sample.lead})
    place.put("own", key, content)
    if index is not None:
        place.put("own", f"{key}.idx", index)
    else:
        place.advance(minutes=11)


def straight(message: bytes) -> NDArray[np.float32]:
    """The field as eccodes alone reads it, NaN where its bitmap or missing value says so."""
    eccodes = load_eccodes()
    handle = eccodes.codes_new_from_message(message)
    try:
        eccodes.codes_set(handle, "missingValue", 1e30)
        values = eccodes.codes_get_values(handle)
        shape = eccodes.codes_get(handle, "Nj"), eccodes.codes_get(handle, "Ni")
    finally:
        eccodes.codes_release(handle)
    return np.asarray(np.where(values == 1e30, np.nan, values).astype(np.float32).reshape(shape))


@pytest.mark.case(31)
@pytest.mark.parametrize("name", list(SAMPLES))
def test_open_weather_gives_what_eccodes_reads(make_world: MakeWorld, real_data: Path, name: str) -> None:
    """Else our numbers are not NOAA's."""
    sample = SAMPLES[name]
    place, model = make_world(sample)
    content = body(real_data, sample)
    publish(place, model, sample, content)

    (report,) = place.ingest(model)

    assert (report.published, report.partial) == (1, 0), report.errors
    ds = open_weather("own", f"{sample.cycle:%Y-%m-%dT%H}", environ=place.environ)
    fields = {name: ds[name].values[0] for name, *_ in sample.parameters}
    references = [straight(content[offset : offset + length]) for offset, length in messages(content)]
    assert len(fields) == len(references)
    for (array, values), reference in zip(fields.items(), references, strict=True):
        np.testing.assert_array_equal(values, reference, err_msg=array)
        assert values.dtype == np.float32


@pytest.mark.case(7)
def test_a_real_file_cut_in_its_third_message_is_waited_for(
    wave: tuple[World, Model], real_data: Path
) -> None:
    """Else half a file is taken for data."""
    place, model = wave
    nasty = real_data / "weather" / "nasty"
    index = (nasty / "truncated_mid_msg3.grib2.idx").read_bytes()
    publish(place, model, WAVE, (nasty / "truncated_mid_msg3.grib2").read_bytes(), index)

    place.ingest(model)

    (row,) = place.objects(model, "2023-08-23T18")
    assert (row.state, row.attempts) == ("pending", 0)


@pytest.mark.case(9)
def test_a_real_file_with_a_stale_inventory_gives_the_right_grids(
    wave: tuple[World, Model], real_data: Path
) -> None:
    """Else wind is published as direction."""
    place, model = wave
    content = body(real_data, WAVE)
    publish(place, model, WAVE, content, (real_data / "weather/nasty/ok4.stale.idx").read_bytes())

    (report,) = place.ingest(model)

    assert report.published == 1
    ds = place.open(model, "2023-08-23T18")
    for (array, *_), (offset, length) in zip(WAVE.parameters, messages(content), strict=True):
        np.testing.assert_array_equal(ds[array].values[0], straight(content[offset : offset + length]))


@pytest.mark.case(14)
@pytest.mark.parametrize("indexed", [True, False], ids=["with inventory", "by scan"])
@pytest.mark.parametrize("damage", ["corrupt payload", "missing 7777", "absurd length", "garbage"])
def test_a_damaged_message_of_a_real_file_costs_only_itself(
    wave: tuple[World, Model], real_data: Path, damage: str, indexed: bool
) -> None:
    """Else one bad message hides the rest, or becomes a field of nothing."""
    place, model = wave
    content = body(real_data, WAVE)
    parts = list(messages(content))
    offset, length = parts[1]
    bad = bytearray(content)
    match damage:
        case "corrupt payload":
            bad = bytearray((real_data / "weather/nasty/corrupt_payload_msg2.grib2").read_bytes())
        case "missing 7777":
            bad[offset + length - 4 : offset + length] = b"\0\0\0\0"
        case "absurd length":
            bad[offset + 8 : offset + 16] = (1 << 40).to_bytes(8)
        case "garbage":
            bad[offset + 16 : offset + length - 4] = bytes(length - 20)
    index = (real_data / "weather/nasty/ok4.grib2.idx").read_bytes() if indexed else None
    publish(place, model, WAVE, bytes(bad), index)

    place.ingest(model)

    (row,) = place.objects(model, "2023-08-23T18")
    assert row.state == "partial", row.error
    ds = place.open(model, "2023-08-23T18")
    assert set(ds.data_vars) == {"wind_speed", "u_wind", "v_wind"}
    for (array, *_), (start, size) in zip(WAVE.parameters, parts, strict=True):
        if array != "wind_direction":
            np.testing.assert_array_equal(ds[array].values[0], straight(content[start : start + size]))


@pytest.mark.case(15)
@pytest.mark.parametrize("name", ["zero_byte.grib2", "html_503_body.grib2"])
def test_a_real_empty_or_error_body_is_never_a_success(
    wave: tuple[World, Model], real_data: Path, name: str
) -> None:
    """Else "success, 0 parameters"."""
    place, model = wave
    publish(place, model, WAVE, (real_data / "weather/nasty" / name).read_bytes())

    (report,) = place.ingest(model)

    assert (report.published, report.failed) == (0, 1)


@pytest.mark.case(20)
def test_a_real_gzip_cut_short_is_never_published(tmp_path: Path, real_data: Path) -> None:
    """Else the lower half of the mosaic is garbage."""
    place, model = world(tmp_path), load_models(only=["mrms"])[0]
    place.at = datetime(2026, 2, 19, 5, tzinfo=UTC)
    valid = datetime(2026, 2, 19, 4, 24, tzinfo=UTC)
    content = (real_data / "weather/nasty/truncated.grib2.gz").read_bytes()
    place.put_radar(model, valid, product=1, content=content)

    (report,) = place.ingest(model)

    assert (report.published, report.failed) == (0, 1)
    assert "gzip" in report.errors[0]


@pytest.mark.case(31)
@pytest.mark.case(32)
def test_a_full_size_mosaic_keeps_its_seconds_and_loses_its_sentinels(
    tmp_path: Path, real_data: Path
) -> None:
    """Else -99 is drawn as a colour, and two scans of a minute are one."""
    place, model = world(tmp_path), load_models(only=["mrms"])[0]
    place.at = datetime(2026, 11, 21, 0, 5, tzinfo=UTC)
    valid = datetime(2026, 11, 21, 0, 0, 37, tzinfo=UTC)
    name = "synthetic/MRMS_MergedReflectivityQCComposite_00.50_20261121-000037.grib2.gz"
    content = (real_data / "weather" / name).read_bytes()
    place.put_radar(model, valid, content=content)

    place.ingest(model)

    ds = place.open(model, "2026-11-21T00")
    reference = straight(gzip.decompress(content))
    reference[np.isin(reference, [-999, -99])] = np.nan
    assert ds.time.values[0] == np.datetime64("2026-11-21T00:00:37")
    np.testing.assert_array_equal(ds.reflectivity_composite.values[0], reference)
