"""Organisms in the metrics, as real polls and imports leave them in the ledger."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, event

from ingest_platform.errors import SourceUnavailable
from ingest_platform.operations.metrics import render
from ingest_platform.silo.discover import refresh
from ingest_platform.silo.engines.contract import EngineFailed, EngineRefused
from ingest_platform.silo.read import SOURCE
from ingest_platform_tests.silo_station import Station, new_station, station
from ingest_platform_tests.silo_world import TWELVE, Answer, answer, case

AWAY = Answer(status=503, framing="length")
Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Station]:
    with new_station(tmp_path, id="ebola") as made:
        yield made


@pytest.fixture
def imported(place: Station) -> Station:
    """Twelve records, looked at ten minutes ago."""
    place.import_twelve()
    return place


@pytest.fixture(params=["sqlite", "postgresql"])
def environ(request: pytest.FixtureRequest) -> Mapping[str, str]:
    if request.param == "sqlite":
        return {}
    return {"INGEST_CATALOG_URL": request.getfixturevalue("fresh_database")}


def scrape(place: Station) -> Samples:
    text = render(place.catalog, [], [place.organism], now=place.at).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted({"organism": "ebola", **labels}.items()))]


def queue(samples: Samples) -> dict[str, float]:
    states = ("due", "waiting", "quarantined")
    return {state: value(samples, "ingest_queue_depth", model="silo", state=state) for state in states}


def test_an_organism_that_never_was_imported_shows_zeros_and_no_times(place: Station) -> None:
    """rate() must see the first failure; 0 rows of an index that is not there would be a lie."""
    shown = scrape(place)

    assert value(shown, "silo_imports_total", status="failed") == 0
    assert value(shown, "silo_import_failures_total", reason="engine") == 0
    assert value(shown, "conditional_requests_unheeded_total") == 0
    assert value(shown, "silo_refresh_limit_seconds") == 7200
    assert queue(shown) == {"due": 0, "waiting": 0, "quarantined": 0}
    told = {name for name, _ in shown}
    assert not told & {
        "silo_index_rows",
        "silo_refreshed_timestamp_seconds",
        "silo_last_poll_timestamp_seconds",
    }


def test_an_import_is_told_as_it_was(environ: Mapping[str, str], tmp_path: Path) -> None:
    """Else alerts and people decide on numbers that mean something else."""
    with new_station(tmp_path, environ=environ, id="ebola") as place:
        place.server.release(answer(TWELVE, '"e1"'))
        place.poll()
        due = queue(scrape(place))
        place.ingest()
        place.advance(minutes=10)
        place.server.release(answer(TWELVE, '"e2"'))
        place.round()
        shown, index = scrape(place), place.index

    assert due == {"due": 1, "waiting": 0, "quarantined": 0}
    assert queue(shown) == {"due": 0, "waiting": 0, "quarantined": 0}
    assert value(shown, "silo_imports_total", status="imported") == 1
    assert value(shown, "silo_imports_total", status="unchanged") == 1
    assert value(shown, "silo_index_rows") == 12
    assert value(shown, "silo_index_bytes") == index.index_bytes
    assert value(shown, "silo_release_bytes") == index.body_bytes
    assert value(shown, "silo_downloaded_bytes_total") == 2 * index.body_bytes
    assert value(shown, "silo_engine_seconds_total") == index.engine_seconds == 0.001
    assert value(shown, "silo_import_seconds_total") > 0.001
    assert value(shown, "silo_index_built_timestamp_seconds") == index.built_at.timestamp()
    assert value(shown, "silo_refreshed_timestamp_seconds") == place.at.timestamp()
    assert value(shown, "ingest_last_success_timestamp_seconds", model="silo") == place.at.timestamp()


def test_an_import_under_way_is_due_work(imported: Station) -> None:
    """An empty queue while a build runs for an hour would look like nothing to do."""
    imported.server.release(answer(TWELVE[:11], '"e2"'))
    imported.poll()

    claim = imported.catalog.claim(SOURCE, "ebola", owner="another")

    assert claim is not None
    assert queue(scrape(imported)) == {"due": 1, "waiting": 0, "quarantined": 0}


def test_a_release_that_is_given_up_is_counted_until_a_person_requeues_it(imported: Station) -> None:
    """The alarm must sound while it lies there, and must end when somebody has acted."""
    imported.server.release(answer(TWELVE[:1], '"few"'))
    imported.round()
    given_up = scrape(imported)

    requeued = imported.catalog.requeue(SOURCE, "ebola")
    again = queue(scrape(imported))
    refresh(imported.rails, imported.organism)
    imported.ingest(accept_row_drop=True)
    accepted = scrape(imported)

    assert queue(given_up) == {"due": 0, "waiting": 0, "quarantined": 1}
    assert value(given_up, "silo_import_failures_total", reason="rows_lost") == 1
    assert (requeued, again) == (1, {"due": 1, "waiting": 0, "quarantined": 0})
    assert queue(accepted) == {"due": 0, "waiting": 0, "quarantined": 0}
    assert value(accepted, "silo_index_rows") == 1


def test_the_next_good_release_takes_the_place_of_one_that_was_given_up(
    environ: Mapping[str, str], tmp_path: Path
) -> None:
    """Else an alarm goes on for ever over what nobody needs any more, and no command ends it."""
    with new_station(tmp_path, environ=environ, id="ebola") as place:
        queues = []
        for records, etag in ((TWELVE, '"e1"'), (TWELVE[:1], '"few"'), (TWELVE[:11], '"e3"')):
            place.server.release(answer(records, etag))
            place.round()
            queues.append(queue(scrape(place))["quarantined"])
        place.server.release(answer(TWELVE[:1], '"few"'))
        place.round()
        again = place.rows

    assert queues == [0, 1, 0]
    assert [row.state for row in again if row.etag == '"few"'] == ["quarantined"]


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (EngineFailed("silo: died of signal 9.", ""), "postponed", "engine"),
        (EngineRefused("silo: does not take the inputs.", ""), "postponed", "engine"),
        (OSError(28, "No space left on device"), "postponed", "store"),
    ],
)
def test_what_stops_an_import_is_counted_by_who_must_act(
    imported: Station, error: Exception, status: str, reason: str
) -> None:
    """Who is woken must know whether to look at the engine, the disk, or the data."""
    before = value(scrape(imported), "silo_downloaded_bytes_total")
    imported.server.release(answer(TWELVE[:11], '"e2"'))
    imported.engine.failures = [error]

    imported.round()
    shown = scrape(imported)

    assert value(shown, "silo_imports_total", status=status) == 1
    assert value(shown, "silo_import_failures_total", reason=reason) == 1
    assert queue(shown) == {"due": 0, "waiting": 1, "quarantined": 0}
    assert value(shown, "silo_engine_seconds_total") == 0.001  # of the build before
    assert value(shown, "silo_downloaded_bytes_total") > before


def test_a_release_that_is_damaged_is_counted_as_such_and_not_as_downloaded(imported: Station) -> None:
    """Else the traffic on the bill and the one on the dashboard differ by what broke off."""
    before = value(scrape(imported), "silo_downloaded_bytes_total")
    imported.server.always(case("duplicate_primary_key").answer)

    imported.round()
    shown = scrape(imported)

    assert value(shown, "silo_import_failures_total", reason="release") == 1
    assert value(shown, "silo_downloaded_bytes_total") == before


def test_polls_that_fail_are_counted_in_a_row(imported: Station) -> None:
    """One failure is a restart of the backend; five in a row are somebody's business."""
    imported.server.always(AWAY)
    failures = []
    for _ in range(3):
        with suppress(SourceUnavailable):
            imported.poll()
        failures.append(value(scrape(imported), "silo_poll_failures"))
    imported.server.release(answer(TWELVE, '"e1"'))
    imported.poll()
    shown = scrape(imported)

    assert failures == [1, 2, 3]
    assert value(shown, "silo_poll_failures") == 0
    assert value(shown, "silo_last_poll_timestamp_seconds") == imported.at.timestamp()


def test_etags_that_are_not_heeded_are_counted_in_a_row_and_over_all(place: Station) -> None:
    """A proxy that breaks them costs a full query a poll, and the log looks healthy."""
    place.server.always(answer(TWELVE, '"e1"'))
    place.round()
    for _ in range(3):
        place.poll()
    ignored = scrape(place)
    place.server.release(answer(TWELVE, '"e1"'))
    place.poll()
    heeded = scrape(place)

    assert value(ignored, "silo_polls_unheeded") == 3
    assert value(heeded, "silo_polls_unheeded") == 0
    assert value(heeded, "conditional_requests_unheeded_total") == 3


def test_the_next_refresh_is_due_when_the_poll_orders_it(imported: Station) -> None:
    """A time that the sensor does not keep would make every look at the page a wrong alarm."""
    due = value(scrape(imported), "silo_next_refresh_timestamp_seconds")

    imported.advance(seconds=due - imported.at.timestamp() - 1.5)  # a poll comes a second later
    before = imported.poll()
    imported.advance(hours=3)
    overdue = value(scrape(imported), "silo_next_refresh_timestamp_seconds")
    after = imported.poll()

    assert (before.what, after.what) == ("unchanged", "hard refresh")
    assert overdue == due


def test_a_clock_that_went_back_makes_the_refresh_due_at_once(imported: Station) -> None:
    """As the poll has it: times from the future count for nothing."""
    imported.advance(days=-30)

    assert value(scrape(imported), "silo_next_refresh_timestamp_seconds") == imported.at.timestamp()
    assert imported.poll().what == "hard refresh"


def test_counters_never_go_back_and_a_removed_organism_keeps_its_own(imported: Station) -> None:
    """A counter that falls looks like a restart to Prometheus, and it adds everything once more."""
    before = counters(imported)
    for release in (answer(TWELVE[:1], '"few"'), answer(TWELVE[:11], '"e3"'), answer(TWELVE, '"e4"')):
        imported.server.release(release)
        imported.round()
        imported.advance(hours=2)
        imported.engine.failures = [EngineFailed("out of memory", "")]
        after = counters(imported)
        assert {name: number for name, number in before.items() if after.get(name, -1) < number} == {}
        before = after

    imported.configure(id="another")

    counted = {name: number for name, number in before.items() if number}
    assert counted.items() <= counters(imported).items()


def counters(place: Station) -> Samples:
    return {(name, labels): v for (name, labels), v in scrape(place).items() if name.endswith("_total")}


def test_a_hundred_organisms_cost_as_many_statements_as_one(imported: Station) -> None:
    """A scrape that grows with the organisms times out where it is needed most."""
    one = statements(lambda: render(imported.catalog, [], [imported.organism], now=imported.at))

    hundred = [imported.organism.model_copy(update={"id": f"o{n}"}) for n in range(100)]

    assert statements(lambda: render(imported.catalog, [], hundred, now=imported.at)) == one


def statements(do: Callable[[], object]) -> int:
    """How many the process sends to any database meanwhile."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        do()
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert sent
    return len(sent)


def test_two_organisms_have_samples_of_their_own(imported: Station) -> None:
    """Else the alarm names the wrong one."""
    ebola = imported.organism
    with station(imported.root, imported.server, id="mpox", output=imported.root / "mpox") as other:
        other.server.release(answer(TWELVE[:5], '"mpox"'))
        other.at = imported.at
        other.round()
        text = render(other.catalog, [], [ebola, other.organism], now=other.at).decode()

    assert 'silo_index_rows{organism="ebola"} 12.0' in text
    assert 'silo_index_rows{organism="mpox"} 5.0' in text
    assert 'ingest_partitions{model="silo",state="open"} 2.0' in text
