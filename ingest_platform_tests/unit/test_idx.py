"""Inventories: which bytes hold which field, and which of several messages a parameter means."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_platform.errors import Damaged
from ingest_platform.weather.idx import (
    Identity,
    IndexMismatch,
    WindowSpan,
    absent,
    choose,
    parse_index,
    parse_window,
    select,
)
from ingest_platform.weather.model import Parameter, Window

HOUR = timedelta(hours=1)
GFS_F007 = "gfs.t00z.pgrb2.0p25.f007.idx"
GFS_F007_BYTES = 541_000_000


def parameter(variable: str, level: str, window: Window = Window.INSTANT, **more: object) -> Parameter:
    return Parameter.model_validate(
        {
            "name": f"{variable.lower()}_{window.value.replace(' ', '_')}",
            "units": "1",
            "long_name": variable,
            "valid_range": (0, 1),
            "variable": variable,
            "level": level,
            "window": window,
            **more,
        }
    )


def idx_files(real_data: Path) -> list[Path]:
    return sorted((real_data / "weather/idx").rglob("*.idx"))


def test_every_real_inventory_is_read_to_its_last_line(real_data: Path) -> None:
    """Else a line of a kind we did not think of stops a cycle."""
    for path in idx_files(real_data):
        text = path.read_text()

        entries = parse_index(text, 10**10)

        assert len(entries) == len(text.splitlines())
        assert sum(entry.length for entry in entries) == 10**10
        assert all(parse_window(entry.identity.window) for entry in entries), path


def test_a_line_gives_place_time_and_identity(real_data: Path) -> None:
    """Else ranges point beside the message, or a grid gets another cycle's name."""
    entries = parse_index((real_data / "weather/idx" / GFS_F007).read_text(), GFS_F007_BYTES)

    entry = entries[595]

    assert entry.number == 596
    assert (entry.offset, entry.length) == (428_200_066, 428_448_703 - 428_200_066)
    assert entry.reference_time == datetime(2025, 8, 1, tzinfo=UTC)
    assert entry.identity == Identity("APCP", "surface", "6-7 hour acc fcst")
    assert entries[-1].offset + entries[-1].length == GFS_F007_BYTES


@pytest.mark.case(17)
@pytest.mark.parametrize(
    ("file", "window", "text"),
    [
        (GFS_F007, Window.ACC_RECENT, "6-7 hour acc fcst"),
        (GFS_F007, Window.ACC_RUN, "0-7 hour acc fcst"),
        ("20221014/gfs.t06z.pgrb2.0p25.f021.idx", Window.ACC_RECENT, "18-21 hour acc fcst"),
        ("hrrr.t00z.wrfsfcf08.grib2.idx", Window.ACC_RECENT, "7-8 hour acc fcst"),
        ("hrrr.t00z.wrfsfcf24.grib2.idx", Window.ACC_RUN, "0-1 day acc fcst"),
        ("hrrr.t00z.wrfsfcf24.grib2.idx", Window.ACC_RECENT, "23-24 hour acc fcst"),
        ("20221014/hrrr.t03z.wrfsubhf09.grib2.idx", Window.ACC_RECENT, "525-540 min acc fcst"),
    ],
)
def test_the_window_of_rain_is_the_one_configured(
    real_data: Path, file: str, window: Window, text: str
) -> None:
    """Else seven hours of rain are shown as one hour's."""
    entries = parse_index((real_data / "weather/idx" / file).read_text(), 10**10)

    wanted = select(entries, [parameter("APCP", "surface", window)])

    assert [want.entry.identity.window for want in wanted] == [text]


@pytest.mark.case(17)
def test_an_instant_is_not_taken_for_an_average(real_data: Path) -> None:
    """Else the cloud cover of the hour is shown as that of the moment."""
    entries = parse_index((real_data / "weather/idx" / GFS_F007).read_text(), GFS_F007_BYTES)
    cover = [parameter("TCDC", "entire atmosphere", window) for window in (Window.INSTANT, Window.AVE_RECENT)]

    wanted = select(entries, cover)

    assert [want.entry.identity.window for want in wanted] == ["7 hour fcst", "6-7 hour ave fcst"]


def test_isobaric_levels_come_in_axis_order(real_data: Path) -> None:
    """Else 500 hPa is written where 850 hPa belongs."""
    entries = parse_index((real_data / "weather/idx" / GFS_F007).read_text(), GFS_F007_BYTES)
    wind = parameter("UGRD", "", levels_hpa=(850, 500, 250))

    wanted = select(entries, [wind])

    assert [want.level for want in wanted] == ["850 mb", "500 mb", "250 mb"]
    assert [want.entry.identity.level for want in wanted] == ["850 mb", "500 mb", "250 mb"]


@pytest.mark.case(16)
def test_what_is_configured_and_not_there_is_named(real_data: Path) -> None:
    """Else PRMSL, which HRRR never has, is missed by nobody."""
    entries = parse_index((real_data / "weather/idx/hrrr.t00z.wrfsfcf08.grib2.idx").read_text(), 10**9)
    asked = [parameter("PRMSL", "mean sea level"), parameter("TMP", "2 m above ground")]

    gone = absent([entry.identity for entry in entries], asked)

    assert [(p.variable, level) for p, level in gone] == [("PRMSL", "mean sea level")]


def test_an_analysis_is_not_asked_for_accumulations(real_data: Path) -> None:
    """Else every f00 raises a false alarm, or its empty `0-0 day acc` passes for rain."""
    entries = parse_index((real_data / "weather/idx/hrrr.t00z.wrfsfcf00.grib2.idx").read_text(), 10**9)
    identities = [entry.identity for entry in entries]
    rain = parameter("APCP", "surface", Window.ACC_RUN, not_at_lead_zero=True)

    assert Identity("APCP", "surface", "0-0 day acc fcst") in identities
    assert choose(identities, [rain]) == []
    assert absent(identities, [rain]) == ()


def test_of_identical_messages_the_first_is_taken() -> None:
    """Else two readers of one file disagree about its bytes."""
    twice = [Identity("APCP", "surface", "0-6 hour acc fcst")] * 2

    chosen = choose(twice, [parameter("APCP", "surface", Window.ACC_RECENT)])

    assert [choice.position for choice in chosen] == [0]


def test_fields_that_share_a_message_share_its_range() -> None:
    """Else the first field of a wind pair has length zero."""
    text = (
        "1:0:d=2026112100:PRMSL:mean sea level:anl:\r\n\r\n"
        "2.1:500:d=2026112100:UGRD:850 mb:anl:\r\n"
        "2.2:500:d=2026112100:VGRD:850 mb:anl:\r\n"
        "3:900:d=2026112100:var discipline=0 center=7 local_table=1 parmcat=16 parm=201:surface:anl:\r\n"
    )

    entries = parse_index(text, 1000)

    assert [(e.number, e.field, e.offset, e.length) for e in entries] == [
        (1, 0, 0, 500),
        (2, 0, 500, 400),
        (2, 1, 500, 400),
        (3, 0, 900, 100),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "<html>503</html>",
        "1:0:d=2026112100:PRMSL",
        "1:-5:d=2026112100:A:B:anl:",
        "1:0:d=2026139900:A:B:anl:",
        "1:²:d=2026112100:A:B:anl:",
        "one:0:d=2026112100:A:B:anl:",
    ],
)
def test_text_that_is_no_inventory_is_damage(text: str) -> None:
    """Else an error page reads as a file without parameters."""
    with pytest.raises(Damaged, match="inventory"):
        parse_index(text, 1000)


@pytest.mark.case(9)
@pytest.mark.parametrize("offsets", [(0, 500, 400), (0, 500, 500), (0, 500, 1000), (0, 500, 1001)])
def test_offsets_that_cannot_be_of_this_object_are_told_from_damage(offsets: tuple[int, ...]) -> None:
    """Else a stale inventory is quarantined instead of going around it."""
    lines = [f"{n}:{offset}:d=2026112100:TMP:{n} mb:anl:" for n, offset in enumerate(offsets, 1)]

    with pytest.raises(IndexMismatch, match="the object has 1,000 bytes"):
        parse_index("\n".join(lines), 1000)


@given(st.text(max_size=200), st.integers(0, 10**6))
def test_any_text_is_read_or_refused(text: str, size: int) -> None:
    """Else a strange byte in an inventory ends a batch with a traceback."""
    try:
        entries = parse_index(text, size)
    except Damaged:
        return

    assert all(0 <= entry.offset < entry.offset + entry.length <= size for entry in entries)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("anl", WindowSpan("instant", 0 * HOUR, 0 * HOUR)),
        ("8 hour fcst", WindowSpan("instant", 8 * HOUR, 8 * HOUR)),
        ("495 min fcst", WindowSpan("instant", 8.25 * HOUR, 8.25 * HOUR)),
        ("6-7 hour acc fcst", WindowSpan("acc", 6 * HOUR, 7 * HOUR)),
        ("480-495 min acc fcst", WindowSpan("acc", 8 * HOUR, 8.25 * HOUR)),
        ("0-1 day acc fcst", WindowSpan("acc", 0 * HOUR, 24 * HOUR)),
        ("6-7 hour ave fcst", WindowSpan("ave", 6 * HOUR, 7 * HOUR)),
        ("0-0 day max fcst", WindowSpan("max", 0 * HOUR, 0 * HOUR)),
        ("7-6 hour acc fcst", None),
        ("6-7 hour fcst", None),
        ("7 hour acc fcst", None),
        ("6-7 hour acc fcst:ENS=+1", None),
        ("10 hour fcst:prob >273", None),
        ("", None),
    ],
)
def test_window_texts_are_understood_or_left_alone(text: str, span: WindowSpan | None) -> None:
    """Else a probability or an ensemble member passes for the forecast itself."""
    assert parse_window(text) == span


@given(st.permutations([("acc", 0), ("acc", 3), ("acc", 6), ("ave", 6), ("max", 5)]))
def test_the_order_of_messages_does_not_change_the_choice(windows: list[tuple[str, int]]) -> None:
    """Else the inventory and a scan of a re-sorted file choose differently."""
    identities = [Identity("APCP", "surface", f"{start}-7 hour {kind} fcst") for kind, start in windows]
    asked = [parameter("APCP", "surface", window) for window in (Window.ACC_RUN, Window.ACC_RECENT)]

    chosen = choose(identities, asked)

    texts = [identities[choice.position].window for choice in chosen]
    assert texts == ["0-7 hour acc fcst", "6-7 hour acc fcst"]
