"""What polls make of a backend that goes back, disagrees with itself or is away, and of what was given up."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from ingest_platform.errors import SourceUnavailable
from ingest_platform.silo.checks import verdicts
from ingest_platform.silo.discover import DOUBT_AGAIN, GIVEN_UP_AGAIN, past_of
from ingest_platform.silo.ingest import LEASE
from ingest_platform.silo.read import SOURCE
from ingest_platform.silo.served import VERSION_FILE
from ingest_platform.silo.status import states, status_of
from ingest_platform_tests.silo_station import Station, new_station
from ingest_platform_tests.silo_world import TWELVE, Answer, Request, answer, record

DAY = 86_400
E1, E2, E3 = (answer(list(map(record, range(11 + n))), f'"e{n}"') for n in (1, 2, 3))
EVERY = timedelta(seconds=25)  # a poll each 30 s is due, as one of the sensor's is


@pytest.fixture
def imported(tmp_path: Path) -> Iterator[Station]:
    """Twelve records under "e1", indexed and served; the next hard refresh is a day away."""
    with new_station(tmp_path, hard_refresh_seconds=DAY) as made:
        made.server.release(E1)
        made.round()
        yield made


def follow(place: Station, *, each: float = 30, **time: float) -> list[tuple[str, str]]:
    """What polls and imports came to, one `each` so many seconds, for so long."""
    looked: list[tuple[str, str]] = []
    over = place.at + timedelta(**time)
    while place.at < over:
        place.advance(seconds=each - 1)
        looked.append((place.poll(every=EVERY).what, place.ingest().what))
    return looked


@pytest.mark.silo_case(5)
def test_a_release_that_a_replica_did_not_have_yet_is_imported_when_it_has(imported: Station) -> None:
    """Else genomes that were announced once, and not sent then, are never shown."""
    imported.server.release(E2)
    assert imported.poll().what == "new release"
    imported.server.release(E1)
    lagged = imported.ingest()
    assert (lagged.what, imported.index.etag) == ("unchanged", '"e1"')
    imported.server.release(E2)

    looked = follow(imported, minutes=1)

    assert looked == [("hard refresh", "imported"), ("unchanged", "nothing due")]
    assert (imported.index.etag, imported.index.rows) == ('"e2"', 13)


@pytest.mark.silo_case(5)
def test_a_backend_whose_heads_and_bodies_differ_for_ever_is_not_loaded_at_every_poll(
    imported: Station,
) -> None:
    """Else a cache that keys on If-None-Match costs mpox's backend 2,880 downloads a day."""
    imported.server.rule = lambda request: answer(
        TWELVE, '"e2"' if "if-none-match" in request.headers else '"e1"', framing="length"
    )
    before, hours = len(imported.downloads), 3

    looked = follow(imported, each=60, hours=hours)

    # A refresh, and the release that is new again behind it.
    assert len(imported.downloads) - before <= 2 * timedelta(hours=hours) / DOUBT_AGAIN + 2
    assert [what for what, _ in looked].count("hard refresh") >= timedelta(hours=hours) / DOUBT_AGAIN - 1


def test_what_a_poll_finds_and_cannot_order_moves_nothing(imported: Station) -> None:
    """Else the hourly look at everything is put off at each poll, for ever."""
    imported.server.release(E2)
    imported.poll()
    imported.server.release(E1)
    imported.ingest()
    imported.server.release(E2)
    assert (imported.poll().what, imported.ingest().what) == ("hard refresh", "imported")
    imported.server.release(E3)
    imported.poll()
    imported.server.release(E1)
    imported.ingest()
    imported.server.release(E3)
    ordered, rows = past_of(imported.catalog, "organism").ordered_at, imported.rows

    again = imported.poll()

    # Within a quarter of an hour after the first doubt.
    assert again.what == "known"
    assert (past_of(imported.catalog, "organism").ordered_at, imported.rows) == (ordered, rows)


def test_a_release_that_the_backend_took_back_is_not_published(imported: Station) -> None:
    """Else genomes that were withdrawn, while a full disk kept them waiting, are shown after all."""
    imported.server.release(E2)
    imported.engine.failures = [OSError(28, "no space")]
    assert imported.round().what == "failed"
    imported.server.release(E1)

    taken_back = imported.poll()
    imported.advance(minutes=20)
    report = imported.ingest()

    assert taken_back.what == "hard refresh"
    assert (report.what, imported.index.etag, imported.index.rows) == ("unchanged", '"e1"', 12)
    assert imported.poll().what == "unchanged"
    assert [row.state for row in imported.rows] == ["ingested"]


def test_a_release_in_hand_causes_no_doubt(imported: Station) -> None:
    """Else each import of a new release is followed by another download of the same."""
    imported.server.release(E2)
    imported.poll()
    assert imported.catalog.claim(SOURCE, "organism", owner="another", lease=LEASE) is not None

    assert [what for what, _ in follow(imported, minutes=1)] == ["known", "known"]


def kill_importers(place: Station, *, times: int = 3) -> None:
    """As the machine does that is out of memory: nobody hands the lease back."""
    for _ in range(times):
        assert place.catalog.claim(SOURCE, "organism", owner="killed", lease=LEASE, limit=1) is not None
        place.advance(seconds=LEASE.total_seconds() + 1)


def test_a_first_release_whose_importers_were_killed_is_tried_again_within_the_hour(tmp_path: Path) -> None:
    """Else a node that was drained three times leaves an organism without an index for a day."""
    with new_station(tmp_path, hard_refresh_seconds=DAY) as place:
        place.server.release(E1)
        place.poll()
        kill_importers(place)

        looked = follow(place, each=60, seconds=GIVEN_UP_AGAIN.total_seconds())

        assert [what for _, what in looked].count("imported") == 1
        assert place.index.rows == 12


def test_what_was_given_up_is_looked_at_once_an_hour_and_not_more(imported: Station) -> None:
    """Else a release that lost its rows is loaded at each poll until a person comes."""
    imported.server.release(answer(TWELVE[:2], '"few"'))

    looked = follow(imported, each=240, hours=6)

    assert [made for _, made in looked].count("failed") in range(6, 10)


def test_a_lost_cursor_does_not_hide_what_was_given_up(tmp_path: Path) -> None:
    """Else the ledger's note of a first release, and no memory of a poll, is a stall without an end."""
    with new_station(tmp_path, hard_refresh_seconds=DAY) as place:
        place.server.release(E1)
        place.poll()
        kill_importers(place)
        place.ingest()
        assert [row.state for row in place.rows] == ["quarantined"]
        place.catalog.keep_cursor(SOURCE, "")

        assert (place.poll().what, place.ingest().what) == ("hard refresh", "imported")


def put_stranger(place: Station, number: int) -> Path:
    """A finished index that the ledger never named, as another program or a dead importer's runner makes."""
    folder = place.organism.output / str(number)
    folder.mkdir(exist_ok=True)
    (folder / VERSION_FILE).write_text(f"timestamp: {number}\nserializationVersion: 7\n")
    return folder


@pytest.mark.silo_case(15)
def test_an_index_that_the_ledger_does_not_name_is_not_served_for_long(imported: Station) -> None:
    """Else SILO's API shows unreleased or old genomes for ever, as it takes larger numbers only."""
    put_stranger(imported, imported.index.index_timestamp + 500)
    assert imported.served is not None
    assert imported.served.timestamp != imported.index.index_timestamp

    looked = follow(imported, minutes=2)

    assert [what for what, _ in looked].count("hard refresh") == 1
    assert imported.served.timestamp == imported.index.index_timestamp
    assert imported.index.rows == 12


def test_a_stranger_that_comes_again_is_answered_four_times_an_hour(imported: Station) -> None:
    """Else two importers that share an output folder load the backend at every poll."""
    before = len(imported.downloads)
    for _ in range(60):
        put_stranger(imported, imported.index.index_timestamp + 500)
        follow(imported, each=60, minutes=1)

    assert len(imported.downloads) - before in range(3, 6)


def test_an_output_folder_that_cannot_be_read_keeps_no_poll(imported: Station) -> None:
    """Else one organism's disk hides that its backend has news, from the ledger and from the graphs."""
    folder = imported.root / "file"
    folder.write_text("no folder")
    imported.configure(output=folder)
    imported.server.release(E2)

    assert imported.poll().what == "new release"


def test_an_output_folder_that_cannot_be_read_hides_no_other_organism(imported: Station) -> None:
    """Else one disk takes the checks and `ingest status` of twenty organisms with it."""
    folder = imported.root / "file"
    folder.write_text("no folder")
    broken = imported.organism.model_copy(update={"id": "broken", "output": folder})
    organisms = [broken, imported.organism]

    shown = status_of(imported.catalog, organisms, imported.at)
    found = states(imported.catalog, organisms, histories={}, rows_in=lambda _organism, _index: 12)
    verdict = verdicts(found, imported.at)["index_served"]

    assert str(folder) in shown[0].last_errors[0]
    assert (shown[1].rows, shown[1].last_errors) == (12, ())
    assert verdict.facts.keys() == {"organisms", "broken"}
    assert str(folder) in verdict.message


def test_the_status_says_what_the_api_serves_and_what_the_ledger_names(imported: Station) -> None:
    """Else genomes that nobody released are served, and `ingest status` shows nothing but a path."""
    number = imported.index.index_timestamp
    put_stranger(imported, number + 500)

    (shown,) = status_of(imported.catalog, [imported.organism], imported.at)

    assert f"the API serves {number + 500}, the ledger names {number}" in shown.last_errors[0]


def away(_request: Request) -> Answer:
    return Answer(b"the database is away", 503, framing="length")


def test_polls_that_fail_in_a_row_are_counted_since_the_first(imported: Station) -> None:
    """Else nobody can tell a hiccup from an outage of a day."""
    imported.server.rule = away
    began = imported.at + timedelta(seconds=1)
    for _ in range(3):
        with pytest.raises(SourceUnavailable):
            imported.poll()
        imported.advance(minutes=5)
    outage = past_of(imported.catalog, "organism")
    (shown,) = status_of(imported.catalog, [imported.organism], imported.at)
    imported.server.release(E1)
    imported.poll()
    over = past_of(imported.catalog, "organism")

    assert (outage.failures, outage.failing_since) == (3, began)
    assert "the database is away" in outage.why
    assert (shown.poll_failures, shown.failing_since) == (3, began)
    assert "3 polls in a row failed since 2026-11-21 12:00:02Z: " in shown.last_errors[0]
    assert (over.failures, over.failing_since, over.why) == (0, None, "")
