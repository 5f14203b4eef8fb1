"""The status page as text: what it must say, and that hostile names and errors stay text."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_platform.catalog.model import ObjectRow
from ingest_platform.operations import results
from ingest_platform.operations.matrix import event_time, row_of
from ingest_platform.operations.page import page, size, span
from ingest_platform.weather.keys import parse
from ingest_platform.weather.model import Kind, Model
from ingest_platform_tests.status_world import NOW, StatusWorld, busy_day, key_of, lead_of, models

GFS, MRMS = models()["gfs"], models()["mrms"]
MODELS = list(models().values())
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"' &amp; {{ 7 * 7 }} </title>"


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StatusWorld]:
    world = busy_day(tmp_path_factory.mktemp("busy"))
    yield world
    world.close()


def shown(world: StatusWorld, dagster_url: str | None = "http://dagster:3000/") -> str:
    return page(world.catalog, MODELS, now=world.at, dagster_url=dagster_url)


def test_the_page_says_of_every_model_how_it_is(busy: StatusWorld) -> None:
    """It is the one place that a person opens in the morning."""
    text = shown(busy)

    for model in MODELS:
        assert f'id="{model.id}"' in text
        assert model.title.split(",")[0] in text
    assert text.count("as it should be") == 5
    assert "6 h 20 min" in text  # GFS's lag


@pytest.mark.parametrize(
    ("later", "told"),
    [
        (timedelta(minutes=3), "as it should be"),
        (timedelta(minutes=5), "behind: the newest is older than 6 min"),
        (timedelta(minutes=7), "the source has shown nothing new for more than 8 min"),
    ],
)
def test_a_model_that_falls_behind_says_so(busy: StatusWorld, later: timedelta, told: str) -> None:
    """Radar is two minutes old while all is well; nobody computes that from a clock."""
    text = page(busy.catalog, [MRMS], now=NOW + later)

    assert told in text


def test_a_model_without_a_single_object_says_so(tmp_path: Path) -> None:
    """The first look after the installation is at this page."""
    world = StatusWorld(f"sqlite:///{tmp_path / 'ledger.db'}")
    text = shown(world)
    world.close()

    assert text.count("nothing to read yet") == 5
    assert text.count("never listed") == 5


def test_every_partition_names_its_gaps(busy: StatusWorld) -> None:
    """Colours alone say nothing to who cannot see them, or prints the page."""
    text = shown(busy)

    assert "missing: f007, f045" in text
    assert "partial: f384; waiting: f180; quarantined: f177" in text
    assert "missing: precipitation_rate 09:08–09:10" in text
    assert text.count('title="f007 missing"') == 1


def test_quarantine_shows_its_reason_and_the_exact_command(busy: StatusWorld) -> None:
    """Else an operator must read the source to give an object another try."""
    text = shown(busy)

    assert "<code>ingest requeue --models gfs --partition 2026-11-20T06</code>" in text
    assert "no usable grid (message 2 at byte 41,723" in text
    assert "the source answered 503 SlowDown" in text


def test_links_lead_into_dagster_only_if_there_is_one(busy: StatusWorld) -> None:
    """A link to a machine that does not exist wastes the minute that counts."""
    assert 'href="http://dagster:3000/assets/weather/gfs/grids"' in shown(busy)
    assert "dagster" not in shown(busy, dagster_url=None).lower()


def test_retention_and_reconcile_say_what_they_did_last(tmp_path: Path) -> None:
    """Else nobody notices that the store is never emptied."""
    world = StatusWorld(f"sqlite:///{tmp_path / 'ledger.db'}")
    before = shown(world)
    cycle = NOW.replace(hour=6, minute=0, second=0)
    world.see(GFS, *(lead_of(GFS, cycle - age * timedelta(days=1), 0) for age in range(3)))
    unpurged = shown(world)
    assert len(world.catalog.expire(GFS.source_name, cutoff=NOW, keep_latest=0, owner="purge")) == 3
    ended = NOW - timedelta(hours=2)
    results.keep_purge(world.catalog, GFS.source_name, at=ended, refused=3, unfinished=0, message="denied")
    results.keep_reconcile(world.catalog, at=NOW, orphans=1, lost=0, troubles=0)
    after = shown(world)
    world.close()

    assert before.count("has not ended yet") == 2
    assert "<strong>not purged within a day</strong>: weather.gfs" in unpurged
    assert "not purged within a day" not in before + after
    assert "2 h ago · 3 refused" in after
    assert "denied" in after
    assert "1 unnamed" in after


def test_what_a_stranger_wrote_stays_text(tmp_path: Path) -> None:
    """Error texts quote what a source sent; a browser must show them, not run them."""
    world = StatusWorld(f"sqlite:///{tmp_path / 'ledger.db'}")
    cycle = NOW.replace(hour=6, minute=0, second=0)
    world.see(GFS, lead_of(GFS, cycle, 0))
    world.work(GFS, cycle, error=HOSTILE)
    world.see(GFS, lead_of(GFS, cycle, 1))
    world.work(GFS, cycle, postponed=HOSTILE)
    results.keep_reconcile(world.catalog, at=NOW, orphans=0, lost=0, troubles=1, message=HOSTILE)

    text = shown(world)
    world.close()

    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3
    assert "<script" not in text
    assert "<img" not in text
    assert "{{ 7 * 7 }}" in text


def test_the_page_needs_nothing_from_anywhere(busy: StatusWorld) -> None:
    """It must open on a machine that is cut off, which is when it is needed."""
    text = shown(busy, dagster_url=None)

    assert re.findall(r"<(?:script|link|img|iframe)\b", text) == []
    assert re.findall(r"(?:src|href)=\"(?!/|#)[^\"]*\"|url\(|@import", text) == []


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_the_matrix_puts_every_object_where_its_name_says(model: Model) -> None:
    """The page reads slots, which is quick; they must mean what the keys mean."""
    start = NOW.replace(hour=6, minute=0, second=0)
    step = timedelta(minutes=model.cadence_minutes)
    if model.kind is Kind.FORECAST:
        keys = [key_of(model, start, lead=lead) for lead in model.expected_leads(start)]
    else:
        times = [start + timedelta(seconds=30) + n * step for n in range(timedelta(hours=1) // step)]
        keys = [key_of(model, t, parameter=p) for p in range(len(model.parameters)) for t in times]

    for number, key in enumerate(keys):
        row = row_of(model, model.partition_key(start), [known(model, key)], start)

        assert [n for n, cell in enumerate(row.cells) if cell.mark == "present"] == [number]
    assert len(row.cells) == len(keys)


@given(moment=st.datetimes(NOW.replace(tzinfo=None) - timedelta(days=400), NOW.replace(tzinfo=None)))
def test_the_event_time_of_a_slot_is_that_of_its_key(moment: datetime) -> None:
    """The lag is counted from it."""
    valid = moment.replace(microsecond=0, tzinfo=UTC)

    assert event_time(known(MRMS, key_of(MRMS, valid)).slot) == valid


def known(model: Model, key: str, state: str = "ingested") -> ObjectRow:
    bucket = model.sources[-1].bucket
    file = next(f for s in model.sources if (f := parse(model, s.bucket, key)) is not None)
    return ObjectRow(1, "p", bucket, key, "e", file.slot, NOW, 10, state, 1, None, None)


def test_a_version_that_readers_have_speaks_before_one_that_waits() -> None:
    """The older version stays readable while the newer one is fetched or was given up."""
    key = key_of(GFS, NOW.replace(hour=6, minute=0, second=0), lead=3)
    rows = [known(GFS, key, state) for state in ("superseded", "pending", "ingested", "quarantined")]

    cells = {c.name: c.mark for c in row_of(GFS, "2026-11-20T06", rows, NOW).cells}

    assert cells["f003"] == "present"
    assert cells["f004"] == "expected"


def test_what_never_came_is_missing_only_after_the_deadline() -> None:
    """Before it a red page would be the usual one, and nobody would look any more."""
    start = NOW.replace(hour=0, minute=0, second=0)
    deadline = start + timedelta(minutes=GFS.complete_after_minutes)

    before = row_of(GFS, "2026-11-20T00", [], deadline)
    after = row_of(GFS, "2026-11-20T00", [], deadline + timedelta(seconds=1))

    assert (before.told, before.live) == ("", 0)
    assert after.told == "missing: f000–f384"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
        (-5, "0 s"),
    ],
)
def test_lengths_of_time_read_as_people_say_them(seconds: int, told: str) -> None:
    """Nobody divides by 3,600 at night."""
    assert span(timedelta(seconds=seconds)) == told


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0 B"), (999, "999 B"), (1_400_000, "1.4 MB"), (2.5e12, "2.5 TB"), (3e15, "3000.0 TB")],
)
def test_sizes_read_as_people_say_them(number: float, told: str) -> None:
    """Nobody counts the digits of a byte count."""
    assert size(number) == told
