"""Real files decode as eccodes decodes them, and damaged ones are refused message by message."""

import gzip
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from ingest_platform.weather import goes, grib, model
from ingest_platform.weather.config import load_models
from ingest_platform.weather.eccodes_library import load_eccodes
from ingest_platform.weather.grib_header import Header, read_header
from ingest_platform.weather.model import Geometry, Parameter
from ingest_platform.weather.unusable import Unusable

# Every whole GRIB file of the collection, with its number of messages and of those with several fields.
GRIB_FILES = {
    "gfs/gfs.complex.grib2": (1, 0),
    "gfs/gfs.jpeg.grib2": (1, 0),
    "gfs/gfs.png.grib2": (1, 0),
    "gfs/gfs.t12z.pgrbf120.2p5deg.grib2": (307, 36),
    "gfs/gfs.t18z.pgrb2.0p25.f186-RH.grib2": (1, 0),
    "hrrr/hrrr.t06z.wrfsfcf01-CFRZR.grib2": (1, 0),
    "hrrr/hrrr.t06z.wrfsfcf01-TMP.grib2": (1, 0),
    "hrrr/hrrr.t06z.wrfsfcf01-UGRD.grib2": (1, 0),
    "hrrr/hrrr.wrfsubhf.sample.grib2": (2, 0),
    "mrms/MRMS_MergedRhoHV_19.00_20260219-042039.grib2.gz": (1, 0),
    "mrms/MRMS_PrecipFlag_00.00_20260219-042400.grib2.gz": (1, 0),
    "nasty/ok4.grib2": (4, 0),
    "synthetic/MRMS_MergedReflectivityQCComposite_00.50_20261121-000037.grib2.gz": (1, 0),
    "synthetic/MRMS_PrecipRate_00.00_20261121-000000.grib2.gz": (1, 0),
    "synthetic/gfs.t00z.pgrb2.0p25.f006": (13, 0),
}

WINDOWS = {
    None: model.Window.INSTANT,
    "acc": model.Window.ACC_RECENT,
    "ave": model.Window.AVE_RECENT,
    "max": model.Window.MAX_RECENT,
    "min": model.Window.MIN_RECENT,
}


def content(path: Path) -> bytes:
    raw = path.read_bytes()
    return gzip.decompress(raw) if path.suffix == ".gz" else raw


def messages(raw: bytes) -> Iterator[bytes]:
    """By section 0, as a file that is whole allows."""
    at = 0
    while at < len(raw):
        length = int.from_bytes(raw[at + 8 : at + 16])
        yield raw[at : at + length]
        at += length


def asking_for(header: Header, variable: str = "any", missing: tuple[float, ...] = ()) -> Parameter:
    """The parameter that this message is."""
    return Parameter(
        name="wanted",
        units="1",
        long_name="wanted",
        valid_range=(-1e9, 1e9),
        variable=variable,
        grib=(header.parameter_id,),
        level=header.level,
        window=WINDOWS.get(header.process_word, model.Window.INSTANT),
        missing=missing,
    )


def by_eccodes(message: bytes) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Values with NaN for what eccodes marks as missing, and every point's latitude and longitude."""
    eccodes = load_eccodes()
    handle = eccodes.codes_new_from_message(message)
    try:
        values = eccodes.codes_get_values(handle).astype(np.float32)
        if eccodes.codes_get(handle, "numberOfMissing"):
            values[values == np.float32(eccodes.codes_get(handle, "missingValue"))] = np.nan
        return values, *(eccodes.codes_get_array(handle, name) for name in ("latitudes", "longitudes"))
    finally:
        eccodes.codes_release(handle)


@pytest.mark.case(31)
@pytest.mark.parametrize("name", GRIB_FILES)
def test_every_message_of_every_real_file_equals_eccodes_bit_for_bit(real_data: Path, name: str) -> None:
    """Packings 5.0, 5.3, 5.40, 5.41, bitmaps and constants: no value may differ from the source's."""
    count, of_several_fields = GRIB_FILES[name]
    decoded = refused = 0

    for message in messages(content(real_data / "weather" / name)):
        header = header_of_one_field(message)
        if header is None:
            refused += 1
            continue
        if header.process_word not in WINDOWS:  # TMAX of 2011 names no process
            continue
        values, latitudes, longitudes = by_eccodes(message)
        grid = grib.decode(message, asking_for(header), header.level)
        assert np.array_equal(grid.values.ravel(), values, equal_nan=True)
        assert_same_places(grid.geometry, latitudes, longitudes)
        decoded += 1

    assert refused == of_several_fields
    assert decoded >= 0.98 * (count - refused)


def header_of_one_field(message: bytes) -> Header | None:
    """None for a message of several fields, which GFS had in 2011."""
    try:
        return read_header(message)
    except Unusable as error:
        if "several fields" not in str(error):
            raise
        return None


def assert_same_places(
    place: Geometry, latitudes: NDArray[np.float64], longitudes: NDArray[np.float64]
) -> None:
    """eccodes sums a rounded step where the file has one: it strays by 0.0001° over 300 rows of 1/6°."""
    if place.y_name == "latitude":
        assert np.abs(np.repeat(place.y, place.x.size) - latitudes).max() < 2e-4
        assert np.abs(np.tile(place.x, place.y.size) - longitudes).max() < 2e-4
        return
    from pyproj import CRS, Transformer

    projection = CRS.from_cf(dict(place.crs))
    to_metres = Transformer.from_crs(projection.geodetic_crs, projection, always_xy=True)
    x, y = to_metres.transform(longitudes, latitudes)
    assert np.abs(np.tile(place.x, place.y.size) - x).max() < 1e-6
    assert np.abs(np.repeat(place.y, place.x.size) - y).max() < 1e-6


@pytest.mark.parametrize(
    ("file", "index"),
    [
        ("synthetic/gfs.t00z.pgrb2.0p25.f006", "synthetic/gfs.t00z.pgrb2.0p25.f006.idx"),
        ("nasty/ok4.grib2", "nasty/ok4.grib2.idx"),
    ],
)
def test_messages_are_identified_as_their_inventory_names_them(
    real_data: Path, file: str, index: str
) -> None:
    """The scan that replaces a stale inventory must find the same grids."""
    lines = [line.split(":") for line in (real_data / "weather" / index).read_text().splitlines()]
    found = list(messages((real_data / "weather" / file).read_bytes()))
    names = [asking_for(read_header(m), line[3]) for m, line in zip(found, lines, strict=True)]

    for message, line in zip(found, lines, strict=True):
        identity = grib.identify(message, names)
        # The synthetic file packs the column as type 200 and its inventory writes the words of type 10.
        level = identity.level.removesuffix(" (considered as a single layer)")
        assert [identity.variable, level, identity.window] == line[3:6]


@pytest.mark.parametrize(
    ("file", "identity"),
    [
        ("hrrr.t06z.wrfsfcf01-TMP.grib2", ("TMP", "surface", "1 hour fcst")),
        ("hrrr.t06z.wrfsfcf01-UGRD.grib2", ("UGRD", "10 m above ground", "1 hour fcst")),
        ("hrrr.wrfsubhf.sample.grib2", ("REFC", "entire atmosphere", "15 min fcst")),
    ],
)
def test_hrrr_messages_have_the_names_of_the_shipped_configuration(
    real_data: Path, file: str, identity: tuple[str, str, str]
) -> None:
    """Ids and names in our YAML must be those in NOAA's bytes."""
    (hrrr,) = load_models(only=["hrrr"])
    message = next(messages((real_data / "weather" / "hrrr" / file).read_bytes()))

    found = grib.identify(message, hrrr.parameters)

    assert (found.variable, found.level, found.window) == identity


@pytest.mark.case(32)
def test_quarter_hours_of_the_sub_hourly_file_are_kept(real_data: Path) -> None:
    """In whole hours the four steps of an hour are one."""
    path = real_data / "weather" / "hrrr" / "hrrr.wrfsubhf.sample.grib2"
    moment, mean = (grib.decode(m, asking_for(read_header(m)), None) for m in messages(path.read_bytes()))

    assert (moment.lead, moment.window) == (timedelta(minutes=15), "instant")
    assert (mean.lead, mean.window) == (timedelta(minutes=15), "0-15 min ave")
    assert moment.valid_time == mean.valid_time == datetime(2022, 10, 14, 1, 15, tzinfo=UTC)


@pytest.mark.case(17)
def test_the_two_sums_of_one_file_are_two_grids(real_data: Path) -> None:
    """The first to come must not win."""
    (gfs,) = load_models(only=["gfs"])
    rain = {p.name: p for p in gfs.parameters if p.variable == "APCP"}
    sums = list(messages((real_data / "weather" / "synthetic" / "gfs.t00z.pgrb2.0p25.f006").read_bytes()))[
        10:12
    ]

    windows = [grib.decode(m, rain["precipitation_recent"], "surface").window for m in sums]

    assert windows == ["0-6 hour acc", "5-6 hour acc"]
    assert grib.decode(sums[0], rain["precipitation_run"], "surface").window == "0-6 hour acc"
    with pytest.raises(Unusable, match="5-6 hour acc"):
        grib.decode(sums[1], rain["precipitation_run"], "surface")


@pytest.mark.case(31, 32)
@pytest.mark.parametrize(
    ("file", "product", "second", "sentinels"),
    [
        (
            "MRMS_MergedReflectivityQCComposite_00.50_20261121-000037.grib2.gz",
            "MergedReflectivityQCComposite_00.50",
            37,
            (-999, -99),
        ),
        ("MRMS_PrecipRate_00.00_20261121-000000.grib2.gz", "PrecipRate_00.00", 0, (-3,)),
    ],
)
def test_radar_products_keep_their_seconds_and_lose_their_sentinels(
    real_data: Path, file: str, product: str, second: int, sentinels: tuple[float, ...]
) -> None:
    """A mean over "no radar sees this" is meaningless, and 00:00:37 is not 00:00:00."""
    (mrms,) = load_models(only=["mrms"])
    (parameter,) = (p for p in mrms.parameters if p.product == product)
    message = content(real_data / "weather" / "synthetic" / file)

    grid = grib.decode(message, parameter, None)

    assert grid.valid_time == datetime(2026, 11, 21, 0, 0, second, tzinfo=UTC)
    assert np.array_equal(np.isnan(grid.values).ravel(), np.isin(by_eccodes(message)[0], sentinels))


@pytest.mark.case(14)
def test_a_corrupt_message_is_refused_and_its_neighbours_decode(real_data: Path) -> None:
    """One bad message in 743 must not cost the other 742, nor pass."""
    raw = (real_data / "weather" / "nasty" / "corrupt_payload_msg2.grib2").read_bytes()
    whole = (real_data / "weather" / "nasty" / "ok4.grib2").read_bytes()
    reasons = {}

    for number, (message, sound) in enumerate(zip(messages(raw), messages(whole), strict=True), 1):
        wanted = asking_for(read_header(sound))
        try:
            grid = grib.decode(message, wanted, wanted.level)
        except Unusable as error:
            reasons[number] = (error.kind, str(error))
        else:
            assert np.array_equal(grid.values, grib.decode(sound, wanted, None).values, equal_nan=True)

    assert set(reasons) == {2}
    assert reasons[2][0] == "decode"
    assert "5.40" in reasons[2][1]


@pytest.mark.case(14)
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("missing 7777", "not in 7777"),
        ("absurd length", "the message says"),
        ("cut", "the message says"),
        ("zeros", "not a GRIB2 message"),
    ],
)
def test_a_message_whose_frame_is_broken_is_refused_before_decoding(
    real_data: Path, damage: str, told: str
) -> None:
    """eccodes loses the rest of the file, or asks for a terabyte."""
    second = list(messages((real_data / "weather" / "nasty" / "ok4.grib2").read_bytes()))[1]
    wanted = asking_for(read_header(second))
    broken = {
        "missing 7777": second[:-4] + b"\0\0\0\0",
        "absurd length": second[:8] + (1 << 40).to_bytes(8) + second[16:],
        "cut": second[: len(second) // 2],
        "zeros": bytes(len(second)),
    }[damage]

    with pytest.raises(Unusable, match=told) as refusal:
        grib.decode(broken, wanted, None)

    assert refusal.value.kind == "framing"


@pytest.mark.case(14)
@pytest.mark.parametrize(
    "name", ["gfs/gfs.png.grib2", "gfs/gfs.complex.grib2", "gfs/gfs.jpeg.grib2", "nasty/ok4.grib2"]
)
def test_garbage_in_the_payload_never_becomes_a_grid_without_values(real_data: Path, name: str) -> None:
    """gribberish answers garbage with an all-NaN grid and no error."""
    message = next(messages((real_data / "weather" / name).read_bytes()))
    header = read_header(message)
    garbage = np.random.default_rng(7).bytes(header.data[1] - header.data[0])
    broken = message[: header.data[0]] + garbage + message[header.data[1] :]

    with pytest.raises(Unusable) as refusal:
        grib.decode(broken, asking_for(header), None)

    assert refusal.value.kind == "decode"


def test_threads_decode_as_one_does(real_data: Path) -> None:
    """Grids of one file are decoded side by side."""
    raw = (real_data / "weather" / "synthetic" / "gfs.t00z.pgrb2.0p25.f006").read_bytes()
    wanted = [(m, asking_for(read_header(m))) for m in messages(raw)]
    alone = [grib.decode(m, p, None).values for m, p in wanted]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda each: grib.decode(each[0], each[1], None).values, wanted))

    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.case(31)
@pytest.mark.parametrize("band", [2, 8, 13])
def test_satellite_bands_equal_what_hdf5_reads(real_data: Path, band: int) -> None:
    """Chunks are inflated by a path of our own."""
    (path,) = (real_data / "weather" / "synthetic").glob(f"OR_ABI-L2-CMIPC-M6C{band:02}_*.nc")
    (east,) = load_models(only=["goes_east"])
    (parameter,) = (p for p in east.parameters if p.band == band)

    grid = goes.decode(path.read_bytes(), parameter)

    with h5py.File(path) as file:
        assert np.array_equal(grid.values.view(np.int16), file["CMI"][()])
        scale, offset = (float(file["CMI"].attrs[a][0]) for a in ("scale_factor", "add_offset"))
    values = goes.unpack(grid)
    present = grid.values != 65535
    assert np.array_equal(values[present], (grid.values[present] * scale + offset).astype(np.float32))
    assert np.isnan(values[~present]).all()
    assert grid.reference_time == datetime(2026, 11, 21, 0, 1, 17, 300_000, tzinfo=UTC)
