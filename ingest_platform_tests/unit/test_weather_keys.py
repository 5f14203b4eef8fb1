"""Key templates against the names that the NOAA buckets really use, and against names that look alike."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_platform.weather.config import load_models
from ingest_platform.weather.keys import (
    TIME_FIELDS,
    Template,
    TemplateError,
    Value,
    check_template,
    parse,
    template,
)
from ingest_platform.weather.model import Kind, Model

MODELS = {model.id: model for model in load_models()}
BUCKETS = sorted({source.bucket for model in MODELS.values() for source in model.sources})

GFS = "gfs.20260718/06/atmos/"
GFS_TAKEN = [f"{GFS}gfs.t06z.pgrb2.0p25.f{lead:03}" for lead in (0, 7, 119, 120, 123, 384)]
GFS_DECOYS = [
    *(f"{GFS}gfs.t06z.pgrb2.0p25.f{lead:03}" for lead in (121, 122, 385, 387)),
    *(f"{GFS}gfs.t06z.pgrb2.0p25.f{lead:03}.idx" for lead in (0, 7, 384)),
    f"{GFS}gfs.t06z.pgrb2.0p25.f007.grib2",
    f"{GFS}gfs.t06z.pgrb2.0p25.anl",
    f"{GFS}gfs.t06z.pgrb2.0p25.anl.idx",
    f"{GFS}gfs.t06z.goessimpgrb2.0p25.f007",
    f"{GFS}gfs.t06z.pgrb2b.0p25.f007",
    f"{GFS}gfs.t06z.pgrb2full.0p50.f006",
    f"{GFS}gfs.t06z.pgrb2.0p50.f006",
    f"{GFS}gfs.t06z.pgrb2.1p00.f006",
    f"{GFS}gfs.t06z.sfluxgrbf007.grib2",
    f"{GFS}gfs.t06z.atmf007.nc",
    f"{GFS}gfs.t06z.logf007.txt",
    f"{GFS}gfs.t12z.pgrb2.0p25.f007",  # the cycle in the folder is another
    "gfs.20260718/03/atmos/gfs.t03z.pgrb2.0p25.f007",
    "gfs.20260718/06/gfs.t06z.pgrb2.0p25.f007",  # the path before v16
    "gfs.20260718/06/products/atmos/grib2/0p25/gfs.t06z.pres_a.0p25.f007.grib2",  # v17, before its time
    "gfs.20260230/06/atmos/gfs.t06z.pgrb2.0p25.f007",  # no such day
    "gdas.20260718/06/atmos/gdas.t06z.pgrb2.0p25.f007",
]
HRRR = "hrrr.20260718/"
HRRR_TAKEN = [
    *(f"{HRRR}conus/hrrr.t06z.wrfsfcf{lead:02}.grib2" for lead in (0, 18, 19, 48)),
    *(f"{HRRR}conus/hrrr.t05z.wrfsfcf{lead:02}.grib2" for lead in (0, 18)),
]
HRRR_DECOYS = [
    f"{HRRR}conus/hrrr.t05z.wrfsfcf19.grib2",  # beyond this cycle's horizon
    f"{HRRR}conus/hrrr.t06z.wrfsfcf49.grib2",
    f"{HRRR}conus/hrrr.t06z.wrfsfcf007.grib2",
    f"{HRRR}conus/hrrr.t06z.wrfsfcf07.grib2.idx",
    f"{HRRR}conus/hrrr.t06z.wrfprsf07.grib2",
    f"{HRRR}conus/hrrr.t06z.wrfnatf07.grib2",
    f"{HRRR}conus/hrrr.t06z.wrfsubhf07.grib2",
    f"{HRRR}alaska/hrrr.t06z.wrfsfcf07.ak.grib2",
]
ABI = "ABI-L2-CMIPC/2026/199/06/OR_ABI-L2-"
SCAN = "s20261990601173_e20261990603546_c20261990604031.nc"
EAST_TAKEN = [f"{ABI}CMIPC-M{mode}C{band:02}_G19_{SCAN}" for band in (2, 8, 13) for mode in (3, 4, 6)]
EAST_DECOYS = [
    *(f"{ABI}CMIPC-M6C{band:02}_G19_{SCAN}" for band in (1, 3, 7, 9, 12, 14, 16)),
    f"{ABI}CMIPC-M6C13_G18_{SCAN}",
    f"{ABI}CMIPC-M6C13_G16_{SCAN}",
    f"{ABI}CMIPM1-M6C13_G19_{SCAN}",
    f"{ABI}MCMIPC-M6_G19_{SCAN}",
    f"{ABI}CMIPC-M6C13_G19_{SCAN}.md5",
    f"ABI-L2-CMIPC/2026/199/07/OR_ABI-L2-CMIPC-M6C13_G19_{SCAN}",  # the folder's hour is another
    "ABI-L2-CMIPC/2026/366/06/OR_ABI-L2-CMIPC-M6C13_G19_"
    "s20263660601173_e20263660603546_c20263660604031.nc",  # no such day in 2026
]
WEST_TAKEN = [f"{ABI}CMIPC-M6C{band:02}_G18_{SCAN}" for band in (2, 8, 13)]
MRMS_TAKEN = [
    "CONUS/MergedReflectivityQCComposite_00.50/20260718/"
    "MRMS_MergedReflectivityQCComposite_00.50_20260718-000039.grib2.gz",
    "CONUS/PrecipRate_00.00/20260718/MRMS_PrecipRate_00.00_20260718-000200.grib2.gz",
]
MRMS_DECOYS = [
    "CONUS/MergedReflectivityQCComposite_00.50/20260718/"
    "MRMS_MergedReflectivityQCComposite_00.50_20260717-235839.grib2.gz",  # the folder's date is another
    "CONUS/PrecipRate_00.00/20260718/MRMS_PrecipRate_00.00_20260718-000200.grib2",
    "CONUS/PrecipRate_00.00/20260718/MRMS_PrecipRate_00.00.latest.grib2.gz",
    "CONUS/PrecipRate_00.00/20260718/MRMS_PrecipFlag_00.00_20260718-000200.grib2.gz",
    "CONUS/PrecipFlag_00.00/20260718/MRMS_PrecipFlag_00.00_20260718-000200.grib2.gz",
    "CONUS/MultiSensor_QPE_01H_Pass2_00.00/20260718/"
    "MRMS_MultiSensor_QPE_01H_Pass2_00.00_20260718-000000.grib2.gz",
    "CONUS_5KM/PrecipRate_00.00/20260718/MRMS_PrecipRate_00.00_20260718-000200.grib2.gz",
    "ALASKA/PrecipRate_00.00/20260718/MRMS_PrecipRate_00.00_20260718-000200.grib2.gz",
]
TAKEN = {
    "gfs": GFS_TAKEN,
    "hrrr": HRRR_TAKEN,
    "goes_east": EAST_TAKEN,
    "goes_west": WEST_TAKEN,
    "mrms": MRMS_TAKEN,
}
BUCKET_OF = {
    "gfs": "noaa-gfs-bdp-pds",
    "hrrr": "noaa-hrrr-bdp-pds",
    "goes_east": "noaa-goes19",
    "goes_west": "noaa-goes18",
    "mrms": "noaa-mrms-pds",
}
ALL_NAMES = [
    *(key for keys in TAKEN.values() for key in keys),
    *GFS_DECOYS,
    *HRRR_DECOYS,
    *EAST_DECOYS,
    *MRMS_DECOYS,
]


@pytest.mark.case(1)
@given(listing=st.lists(st.sampled_from(ALL_NAMES), unique=True), model=st.sampled_from([*MODELS.values()]))
def test_of_any_listing_exactly_the_configured_objects_are_taken(listing: list[str], model: Model) -> None:
    """Else inventories and other grids are fetched by the gigabyte, or nothing is found at all."""
    taken = [key for key in listing if parse(model, BUCKET_OF[model.id], key) is not None]

    assert taken == [key for key in listing if key in TAKEN[model.id]]


@pytest.mark.case(1)
@given(
    key=st.sampled_from(ALL_NAMES),
    before=st.text(max_size=3),
    after=st.text(max_size=5),
    bucket=st.sampled_from(BUCKETS),
)
def test_nothing_but_the_whole_name_in_its_own_bucket_is_taken(
    key: str, before: str, after: str, bucket: str
) -> None:
    """Else copies, checksums and other satellites' archives pass for the object itself."""
    for model in MODELS.values():
        is_ours = key in TAKEN[model.id] and bucket == BUCKET_OF[model.id] and not before + after

        assert (parse(model, bucket, before + key + after) is not None) == is_ours


@given(
    age=st.timedeltas(timedelta(0), timedelta(days=16 * 366)),
    lead=st.integers(0, 400),
    band=st.integers(1, 16),
    mode=st.integers(0, 9),
    model=st.sampled_from([*MODELS.values()]),
    product=st.from_regex(r"[A-Za-z0-9_.]+", fullmatch=True),
)
def test_a_template_reads_back_what_it_wrote(
    age: timedelta, lead: int, band: int, mode: int, model: Model, product: str
) -> None:
    """Else an object lands in another hour, lead or band than its name says."""
    tenth = datetime(2019, 1, 1, tzinfo=UTC) + age // timedelta(milliseconds=100) * timedelta(
        milliseconds=100
    )
    written: dict[str, Value] = {"lead": lead, "band": band, "mode": mode, "product": product}
    for source in model.sources:
        compiled = template(source.key)
        values = written | dict.fromkeys(TIME_FIELDS, _known_part(compiled, tenth))

        key = compiled.render(values)

        assert compiled.read(key) == {name: values[name] for name in compiled.fields}


@pytest.mark.case(1)
def test_a_forecast_object_tells_cycle_lead_and_slot() -> None:
    """Else a grid is shown for a time it does not describe."""
    file = parse(MODELS["gfs"], "noaa-gfs-bdp-pds", GFS_TAKEN[1])

    assert file is not None
    assert (file.event_time, file.lead) == (datetime(2026, 7, 18, 6, tzinfo=UTC), timedelta(hours=7))
    assert file.slot == "20260718T060000.0/f007"
    assert file.source.index == ".idx"


@pytest.mark.case(32)
def test_radar_keeps_the_seconds_of_its_name_so_two_files_of_one_minute_are_two() -> None:
    """Else one of two grids disappears, and every valid time is up to a minute wrong."""
    name = "CONUS/PrecipRate_00.00/20261121/MRMS_PrecipRate_00.00_20261121-0000{:02}.grib2.gz"
    files = [parse(MODELS["mrms"], "noaa-mrms-pds", name.format(second)) for second in (0, 37)]

    assert [f and f.event_time for f in files] == [
        datetime(2026, 11, 21, tzinfo=UTC),
        datetime(2026, 11, 21, 0, 0, 37, tzinfo=UTC),
    ]
    assert len({f.slot for f in files if f}) == 2


@pytest.mark.case(11)
def test_a_satellite_stamp_keeps_its_tenths() -> None:
    """Else two scans of one second, or two files of one scan, cannot be told apart."""
    file = parse(MODELS["goes_east"], "noaa-goes19", f"{ABI}CMIPC-M6C13_G19_{SCAN}")

    assert file is not None
    assert file.event_time == datetime(2026, 7, 18, 6, 1, 17, 300_000, tzinfo=UTC)
    assert file.created == datetime(2026, 7, 18, 6, 4, 3, 100_000, tzinfo=UTC)
    assert file.slot == "20260718T060117.3/C13"


@pytest.mark.case(3)
@pytest.mark.parametrize(
    ("day", "moment"),
    [
        ("2028/366", datetime(2028, 12, 31, 23, tzinfo=UTC)),
        ("2026/365", datetime(2026, 12, 31, 23, tzinfo=UTC)),
        ("2027/001", datetime(2027, 1, 1, 23, tzinfo=UTC)),
    ],
)
def test_the_day_of_the_year_is_read_and_written_across_new_year(day: str, moment: datetime) -> None:
    """Else the last hours of a year are looked for in the next one."""
    stamp = day.replace("/", "") + "2301173"
    key = f"ABI-L2-CMIPC/{day}/23/OR_ABI-L2-CMIPC-M6C13_G19_s{stamp}_e{stamp}_c{stamp}.nc"
    compiled = template(MODELS["goes_east"].sources[-1].key)

    file = parse(MODELS["goes_east"], "noaa-goes19", key)

    assert file is not None
    assert file.event_time == moment + timedelta(minutes=1, seconds=17, milliseconds=300)
    assert compiled.prefix({"start": moment}, "hour") == f"ABI-L2-CMIPC/{day}/23/OR_ABI-L2-CMIPC-M"


@pytest.mark.case(34)
def test_a_template_ends_at_a_cycle_and_another_begins_and_a_slot_stays_the_same() -> None:
    """Else an upgrade of the source needs new code, and the overlap shows every grid twice."""
    gfs = MODELS["gfs"]
    old = "gfs.20210322/{0:02}/gfs.t{0:02}z.pgrb2.0p25.f003"
    new = "gfs.20210322/{0:02}/atmos/gfs.t{0:02}z.pgrb2.0p25.f003"
    v17 = "gfs.2026{1}/18/products/atmos/grib2/0p25/gfs.t18z.pres_a.0p25.f003.grib2"

    def taken(key: str) -> bool:
        return parse(gfs, "noaa-gfs-bdp-pds", key) is not None

    assert [taken(old.format(6)), taken(new.format(6))] == [True, False]
    assert [taken(old.format(12)), taken(new.format(12))] == [True, True]
    slots = {file.slot for key in (old, new) if (file := parse(gfs, "noaa-gfs-bdp-pds", key.format(12)))}
    assert slots == {"20210322T120000.0/f003"}
    assert [taken(v17.format(0, "1031")), taken(v17.format(0, "1101"))] == [False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/{cycel:%Y%m%d%H}/{lead}", "unknown field {cycel}.*Did you mean cycle"),
        ("a/{cycle:%y}/{lead}", "'%y' of {cycle}.*known: %Y"),
        ("a/{cycle:%Y%m%d%H}/{lead:3}", "format '3' of {lead}"),
        ("a/{cycle:%Y%m%d%H/{lead}", "a brace without its partner"),
        ("a/{cycle:%Y%m%d%H}", "needs {lead}"),
        ("a/{cycle:%Y%m}/{lead}", "must tell year, day"),
    ],
)
def test_a_template_that_cannot_be_understood_says_why(text: str, message: str) -> None:
    """Else a typo in a key is a source that is silently empty."""
    with pytest.raises(TemplateError, match=message):
        check_template(Kind.FORECAST, text)


def _known_part(compiled: Template, moment: datetime) -> datetime:
    """The time as exactly as this template's event time can carry it."""
    codes = compiled.codes(next(f for f in ("cycle", "valid", "start") if f in compiled.fields))
    if "t" in codes:
        return moment
    second = moment.replace(microsecond=0)
    return second if "S" in codes else second.replace(minute=0, second=0)
