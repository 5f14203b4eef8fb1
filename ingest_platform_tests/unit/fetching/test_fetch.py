"""Fetching: what is handed on is what was asked for, from a mirror and over HTTP, whatever happens."""

import gzip
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ingest_platform.errors import Damaged, Incomplete, SourceChanged
from ingest_platform.weather.fetch import coalesce, fetch_gzip, fetch_whole
from ingest_platform.weather.idx import parse_index
from ingest_platform_tests.unit.fetching.place import (
    GRACE,
    KEY,
    NAMES,
    PUBLISHED,
    Fetch,
    Nasty,
    Place,
    grids,
)


def test_wanted_messages_come_whole_and_in_order(place: Place, nasty: Nasty, fetch: Fetch) -> None:
    """Else nothing below means anything."""
    object = place.put(KEY, nasty.read("ok4.grib2"))
    place.put(KEY + ".idx", nasty.read("ok4.grib2.idx"))

    fetched = fetch(object, wanted=("VGRD", "WDIR", "TMP"))

    assert grids(fetched) == [("VGRD", nasty.messages[3]), ("WDIR", nasty.messages[1])]
    assert fetched.path == "index"
    assert [parameter.variable for parameter, _ in fetched.missing] == ["TMP"]
    assert fetched.unknown_count == 2
    assert fetched.rejected == ()


@pytest.mark.case(7)
def test_an_incomplete_object_is_waited_for_and_then_taken(place: Place, nasty: Nasty, fetch: Fetch) -> None:
    """Else an upload under way is quarantined, or half of it published."""
    cut = place.put(KEY, nasty.read("truncated_mid_msg3.grib2"))
    place.put(KEY + ".idx", nasty.read("truncated_mid_msg3.grib2.idx"))

    with pytest.raises(Incomplete, match="ends at or in message 3 of 4"):
        fetch(cut)
    fetched = fetch(place.put(KEY, nasty.read("ok4.grib2")))

    assert [variable for variable, _ in grids(fetched)] == list(NAMES)


@pytest.mark.case(7)
@pytest.mark.parametrize("keep", [30, 142_623, 142_630, 150_000, 184_540])
def test_wherever_an_upload_stops_it_is_waited_for(
    place: Place, nasty: Nasty, fetch: Fetch, keep: int
) -> None:
    """Else the cut that falls between two messages, or into the last, passes for a complete file."""
    cut = place.put(KEY, nasty.read("ok4.grib2")[:keep])
    place.put(KEY + ".idx", nasty.read("ok4.grib2.idx"))

    with pytest.raises(Incomplete):
        fetch(cut)


@pytest.mark.case(7)
def test_an_absent_object_under_an_inventory_is_its_own_failure(
    place: Place, nasty: Nasty, fetch: Fetch
) -> None:
    """Else an object deleted at the source ends as an empty grid."""
    object = place.put(KEY, nasty.read("ok4.grib2"))
    place.put(KEY + ".idx", nasty.read("ok4.grib2.idx"))

    with pytest.raises(Damaged, match="gone"):
        fetch(replace(object, key=KEY + ".moved", etag=object.etag), wanted=NAMES)


@pytest.mark.case(8)
def test_a_missing_inventory_is_waited_for_then_done_without(
    place: Place, nasty: Nasty, fetch: Fetch
) -> None:
    """Else a cycle without inventories never appears, or every file is fetched whole for being early."""
    object = place.put(KEY, nasty.read("ok4.grib2"))

    with pytest.raises(Incomplete, match="until 06:10:00Z"):
        fetch(object, now=PUBLISHED + GRACE - timedelta(seconds=1))
    scanned = fetch(object, now=PUBLISHED + GRACE)
    place.put(KEY + ".idx", nasty.read("ok4.grib2.idx"))
    indexed = fetch(object)

    assert (scanned.path, indexed.path) == ("scan", "index")
    assert grids(scanned) == grids(indexed)
    assert scanned.missing == indexed.missing


@pytest.mark.case(9)
@pytest.mark.parametrize("wanted", [NAMES, ("WIND",), ("TMP",)])
def test_a_stale_inventory_never_names_a_grid(
    place: Place, nasty: Nasty, fetch: Fetch, wanted: tuple[str, ...]
) -> None:
    """Else wind is shown as wave height. Also if only the first message, whose offset is right, is wanted."""
    object = place.put(KEY, nasty.read("ok4.grib2"))
    place.put(KEY + ".idx", nasty.read("ok4.stale.idx"))

    fetched = fetch(object, wanted=wanted)

    assert fetched.path == "scan"
    assert grids(fetched) == [(n, m) for n, m in zip(NAMES, nasty.messages, strict=True) if n in wanted]


@pytest.mark.case(9)
def test_an_inventory_older_than_its_object_is_not_believed(place: Place, nasty: Nasty, fetch: Fetch) -> None:
    """Else a day-old inventory of a re-published file is used as long as lengths happen to agree."""
    object = place.put(KEY, nasty.read("ok4.grib2"), PUBLISHED)
    place.put(KEY + ".idx", nasty.read("ok4.grib2.idx"), PUBLISHED - timedelta(days=1))

    fetched = fetch(object)

    assert fetched.path == "scan"
    assert "2026-11-20" in (fetched.why_scanned or "")
    assert len(fetched.messages) == 4


@pytest.mark.case(9)
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("142623", "999999999"),
        lambda text: text.replace("41723", "42000"),
        lambda text: text.replace("100527", "41000"),
        lambda text: "\n".join(text.splitlines()[:3]),
        lambda text: "<html>" + text,
        lambda _: "",
    ],
    ids=["beyond", "shifted", "not ascending", "cut", "a page", "empty"],
)
def test_a_wrong_inventory_is_gone_around(
    place: Place, nasty: Nasty, fetch: Fetch, damage: Callable[[str], str]
) -> None:
    """Else a damaged side file costs the grids of a good one."""
    object = place.put(KEY, nasty.read("ok4.grib2"))
    place.put(KEY + ".idx", damage(nasty.read("ok4.grib2.idx").decode()).encode())

    fetched = fetch(object, wanted=("WIND", "VGRD"))

    assert fetched.path == "scan"
    assert grids(fetched) == [("WIND", nasty.messages[0]), ("VGRD", nasty.messages[3])]


@pytest.mark.case(14)
@pytest.mark.parametrize("with_index", [True, False])
def test_one_broken_message_costs_only_itself(
    place: Place, nasty: Nasty, fetch: Fetch, with_index: bool
) -> None:
    """Else a file of 743 grids is lost to four bytes."""
    broken = bytearray(nasty.read("ok4.grib2"))
    broken[100_523:100_527] = b"0000"
    object = place.put(KEY, bytes(broken))
    if with_index:
        place.put(KEY + ".idx", nasty.read("ok4.grib2.idx"))

    fetched = fetch(object)

    assert [variable for variable, _ in grids(fetched)] == ["WIND", "UGRD", "VGRD"]
    assert [(r.kind, "message 2 at byte 41,723" in r.what) for r in fetched.rejected] == [("framing", True)]


@pytest.mark.case(15)
@pytest.mark.parametrize("file", ["zero_byte.grib2", "html_503_body.grib2"])
@pytest.mark.parametrize("with_index", [True, False])
def test_an_empty_object_or_an_error_page_is_damage(
    place: Place, nasty: Nasty, fetch: Fetch, file: str, with_index: bool
) -> None:
    """Else it counts as a success without parameters, and the gap is never seen."""
    object = place.put(KEY, nasty.read(file))
    if with_index:
        place.put(KEY + ".idx", nasty.read("ok4.grib2.idx"))

    with pytest.raises(Damaged, match=r"has 0 bytes|expected GRIB2 messages, found b'<\?xml"):
        fetch(object)


@pytest.mark.case(10)
def test_an_object_replaced_before_it_is_read_is_another_version(
    place: Place, nasty: Nasty, fetch: Fetch
) -> None:
    """Else bytes of the new version are published under the old one's row."""
    old = place.put(KEY, nasty.read("ok4.grib2"))
    new = place.put(KEY, nasty.read("corrupt_payload_msg2.grib2"), PUBLISHED + timedelta(seconds=5))
    place.put(KEY + ".idx", nasty.read("ok4.grib2.idx"), PUBLISHED + timedelta(seconds=9))

    with pytest.raises(SourceChanged):
        fetch(old)

    assert len(fetch(new, wanted=("WIND",)).messages) == 1


@pytest.mark.case(20)
def test_a_gzip_is_inflated_only_if_whole_and_right(place: Place, real_data: Path, nasty: Nasty) -> None:
    """Else half a radar mosaic is drawn."""
    packed = (real_data / "weather/mrms/MRMS_PrecipFlag_00.00_20260219-042400.grib2.gz").read_bytes()
    damages = {
        "truncated": nasty.read("truncated.grib2.gz"),
        "crc": packed[:-8] + b"\0\0\0\0" + packed[-4:],
        "size": packed[:-4] + b"\0\0\0\0",
        "payload": packed[:5000] + b"\xff\xff\xff\xff" + packed[5004:],
        "page": nasty.read("html_503_body.grib2"),
        "empty": b"",
    }

    assert fetch_gzip(place.bucket, place.put("ok.gz", packed)) == gzip.decompress(packed)
    for name, body in damages.items():
        with pytest.raises(Damaged, match=name):
            fetch_gzip(place.bucket, place.put(f"{name}.gz", body))


@pytest.mark.case(20)
def test_a_netcdf_is_taken_only_whole(place: Place, real_data: Path, executor: Executor) -> None:
    """Else a cut satellite scene is opened, and its missing rows read as space."""
    (path,) = (real_data / "weather/synthetic").glob("*M6C13*.nc")
    body = path.read_bytes()

    assert fetch_whole(place.bucket, place.put("ok.nc", body), executor=executor) == body
    for name, damaged in {
        "cut": body[:1_000_000],
        "tail": body[:-1],
        "page": b"<html>",
        "empty": b"",
    }.items():
        with pytest.raises(Damaged, match=name):
            fetch_whole(place.bucket, place.put(f"{name}.nc", damaged), executor=executor)


def test_neighbouring_messages_share_a_request_and_a_range_stays_short() -> None:
    """Else 85 messages cost 85 round trips, or one connection carries everything."""
    kib, mib = 1 << 10, 1 << 20

    assert coalesce([(0, 100), (100, 50), (150, 10)]) == [(0, 160)]
    assert coalesce([(0, 100), (100 + 512 * kib, 50)]) == [(0, 150 + 512 * kib)]
    assert coalesce([(0, 100), (101 + 512 * kib, 50)]) == [(0, 100), (101 + 512 * kib, 50)]
    assert coalesce([(at * mib, mib) for at in range(20)]) == [
        (0, 8 * mib),
        (8 * mib, 8 * mib),
        (16 * mib, 4 * mib),
    ]
    assert coalesce([]) == []


def test_a_real_forecast_hour_is_read_in_few_ranges(real_data: Path) -> None:
    """Else the inventory saves bytes and loses them again in round trips."""
    text = (real_data / "weather/idx/gfs.t00z.pgrb2.0p25.f007.idx").read_text()
    entries = parse_index(text, 541_000_000)
    levels = {f"{hpa} mb" for hpa in (1000, 925, 850, 700, 500, 300, 250, 200)}
    wanted = [
        (entry.offset, entry.length)
        for entry in entries
        if entry.identity.variable in {"TMP", "HGT", "UGRD", "VGRD", "RH"} and entry.identity.level in levels
    ]

    ranges = coalesce(wanted)

    assert len(wanted) == 40
    assert len(ranges) <= 20
    assert sum(length for _, length in ranges) <= 1.1 * sum(length for _, length in wanted)
