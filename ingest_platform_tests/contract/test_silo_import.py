"""One organism from its backend to the folder that SILO's API polls: what moves its state."""

import itertools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from backports import zstd

from ingest_platform.errors import Damaged, SourceUnavailable
from ingest_platform.silo.blame import RowsLost
from ingest_platform.silo.engines.contract import EngineFailed, EngineRefused, EngineTimedOut
from ingest_platform.silo.ingest import needs_serving
from ingest_platform_tests.silo_station import Station, new_station
from ingest_platform_tests.silo_world import TWELVE, Answer, Case, answer, case, cases, record


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Station]:
    with new_station(tmp_path) as made:
        yield made


@pytest.fixture
def imported(place: Station) -> Station:
    """Twelve records under "e1", indexed and served; an hour has not passed since."""
    place.import_twelve()
    return place


@pytest.mark.silo_case(1)
def test_a_first_import_is_served_and_the_next_poll_costs_nothing(place: Station) -> None:
    """Else users wait for genomes that are there, or every poll loads and builds everything."""
    place.server.release(answer(TWELVE, '"e1"'))
    first = place.round()

    before = place.output_tree()
    polled, second = place.poll(), place.ingest()

    assert (first.what, first.index and first.index.rows, first.error) == ("imported", 12, None)
    assert place.served is not None
    assert place.served.timestamp == place.index.index_timestamp
    assert place.index.etag == '"e1"'
    assert place.server.requests[-1].headers["if-none-match"] == '"e1"'
    assert (polled.what, second.what) == ("unchanged", "nothing due")
    assert place.output_tree() == before
    assert len(place.engine.builds) == 1


@pytest.mark.silo_case(2)
def test_the_same_content_under_a_new_etag_moves_the_etag_alone(imported: Station) -> None:
    """Else each midnight, when all ETags change, rebuilds every index."""
    before, snapshot = imported.output_tree(), imported.index.snapshot
    imported.server.release(answer(TWELVE, '"e2"'))

    report = imported.round()
    imported.poll()

    assert report.what == "unchanged"
    assert imported.output_tree() == before
    assert (imported.index.etag, imported.index.snapshot) == ('"e2"', snapshot)
    assert imported.server.requests[-1].headers["if-none-match"] == '"e2"'
    assert len(imported.engine.builds) == 1


@pytest.mark.silo_case(3)
@pytest.mark.parametrize("name", ["ok_other_level", "ok_two_frames"])
def test_the_same_records_in_other_frames_are_the_same_content(name: str, place: Station) -> None:
    """Else a backend that compresses otherwise costs a build."""
    place.server.release(case("ok").answer)
    place.round()
    place.server.release(case(name).answer)

    assert place.round().what == "unchanged"
    assert len(place.engine.builds) == 1


@pytest.mark.silo_case(4)
def test_a_weak_etag_is_echoed_and_a_backend_that_ignores_it_is_counted(place: Station) -> None:
    """Else a proxy turns each poll into a full download, and the log looks healthy."""
    place.server.always(case("weak_etag").answer)
    place.round()

    polls = [place.poll() for _ in range(3)]

    assert place.ingest().what == "nothing due"
    assert place.server.requests[-1].headers["if-none-match"] == 'W/"abc"'
    assert [(polled.what, polled.unheeded) for polled in polls] == [("unchanged", n) for n in (1, 2, 3)]
    counted = {count.name: count.value for count in place.catalog.counts()}
    assert counted["conditional_requests_unheeded_total"] == 3


REJECTED = [
    each
    for each in cases()
    if each.expect.startswith(("reject_keep", "reject_or")) or each.expect == "reject"
]
NO_RELEASE = {"no_etag", "status_500_json", "status_204_with_etag"}  # the poll refuses them already


@pytest.mark.silo_case(5)
@pytest.mark.silo_case(6)
@pytest.mark.silo_case(25)
@pytest.mark.parametrize("damaged", REJECTED, ids=lambda each: each.name)
def test_what_is_refused_leaves_index_etag_and_folders_as_they_were(damaged: Case, imported: Station) -> None:
    """Else a broken stream replaces a good index, or its ETag hides the repaired one for ever."""
    before, index = imported.output_tree(), imported.index
    imported.server.always(damaged.answer)

    if damaged.name in NO_RELEASE:
        with pytest.raises(SourceUnavailable):
            imported.poll()
    else:
        report = imported.round()
        assert report.what == "failed"
        assert report.downloaded is False
        assert isinstance(report.error, Damaged | SourceUnavailable)

    assert (imported.output_tree(), imported.index) == (before, index)
    assert len(imported.engine.builds) == 1
    assert list((imported.root / "home" / "scratch").iterdir()) == []
    assert list(imported.rails.keeper(imported.organism).folder.iterdir()) == []
    imported.server.release(answer([*TWELVE, record(12)], '"e9"'))
    imported.advance(minutes=20)
    assert imported.round().what == "imported"


@pytest.mark.silo_case(7)
def test_a_wrong_count_is_tried_again_ever_later_and_never_given_up(imported: Station) -> None:
    """Else a count that raced with a submission leaves the genomes out until the next hard refresh: a day."""
    imported.configure(hard_refresh_seconds=10**6)
    imported.server.always(case("count_too_low").answer)
    imported.poll()
    waits = []

    for _ in range(8):
        assert isinstance(imported.ingest().error, Damaged)
        (row,) = [row for row in imported.rows if row.etag == '"count_too_low"']
        assert row.next_attempt_at is not None
        waits.append((row.next_attempt_at - imported.at).total_seconds() / 60)
        imported.at = row.next_attempt_at
        assert imported.poll().what == "known"

    assert waits == [0.5, 1, 2, 4, 8, 15, 15, 15]
    assert row.state == "pending"
    assert row.error is not None
    assert "12 records were announced" in row.error
    assert imported.index.etag == '"e1"'
    imported.server.always(answer([*TWELVE, record(12)], '"count_too_low"'))
    imported.advance(minutes=15)
    assert imported.ingest().what == "imported"
    assert (imported.index.rows, imported.index.etag) == (13, '"count_too_low"')


@pytest.mark.silo_case(7)
def test_a_release_that_the_engine_refuses_is_loaded_again_after_the_refresh_interval(
    imported: Station,
) -> None:
    """Else a record that the backend has mended under the same ETag is never read."""
    imported.server.release(answer([*TWELVE, record(12)], '"e2"'))
    imported.engine.failures = [EngineRefused("a bad record.", "") for _ in range(20)]
    imported.poll()
    imported.ingest()
    imported.server.release(answer([*TWELVE, record(13)], '"e2"'))

    loaded = []
    for _ in range(8):
        imported.advance(minutes=15)
        report = imported.ingest()
        assert report.what == "failed"
        loaded.append(report.downloaded)
    imported.engine.failures = []
    imported.advance(minutes=15)

    assert loaded == [False, False, False, False, True, False, False, False]
    assert imported.ingest().what == "imported"
    assert b"LOC_000013" in zstd.decompress(imported.engine.builds[-1]["data.ndjson.zst"])


@pytest.mark.silo_case(8)
def test_without_a_count_the_import_carries_a_warning(imported: Station) -> None:
    """Else nobody learns that a check was left out."""
    imported.server.always(case("count_header_garbage").answer)
    imported.poll()
    imported.server.always(answer([*TWELVE, record(12)], '"n"', headers={"ETag": '"n"'}))

    report = imported.ingest()

    assert report.what == "imported"
    assert report.warnings == ["the answer has no x-total-records: the number of records was not checked"]
    assert imported.index.warnings == tuple(report.warnings)


@pytest.mark.silo_case(9)
def test_an_empty_first_release_is_an_empty_index(place: Station) -> None:
    """Else a new organism has no index until its first genome."""
    place.server.release(answer([], '""'))

    report = place.round()

    assert (report.what, place.index.rows, place.index.etag) == ("imported", 0, '""')
    assert place.served is not None


@pytest.mark.silo_case(9)
def test_a_release_that_lost_most_rows_is_refused_until_a_person_accepts_it(imported: Station) -> None:
    """Else a backend that lost its data takes the public site with it."""
    imported.server.release(answer([], '"gone"'))

    refused = imported.round()
    imported.advance(minutes=20)
    again = imported.round()

    assert refused.what == "failed"
    assert isinstance(refused.error, RowsLost)
    assert "0 records where the published index has 12" in str(refused.error)
    assert again.what == "nothing due"
    assert imported.index.rows == 12


@pytest.mark.silo_case(9)
@pytest.mark.parametrize(("kept", "what"), [(6, "imported"), (5, "failed")])
def test_only_more_than_the_limit_is_too_many_lost_rows(kept: int, what: str, imported: Station) -> None:
    """Else a curator's cleaning of a few records stops the import."""
    imported.server.release(answer(TWELVE[:kept], '"fewer"'))

    assert imported.round().what == what


@pytest.mark.silo_case(10)
def test_a_backend_that_is_away_changes_nothing_and_is_asked_ever_later(imported: Station) -> None:
    """Else an outage is hammered, or costs the state that recovery needs."""
    index, every = imported.index, timedelta(seconds=30)
    imported.configure(hard_refresh_seconds=10**6)
    imported.server.always(Answer(b"away", 503, framing="length"))
    asked = []

    for _ in range(400):
        before = len(imported.server.requests)
        try:
            imported.poll(every=every)
        except SourceUnavailable:
            assert len(imported.server.requests) == before + 1
            asked.append(imported.at)
        imported.advance(seconds=29)

    waits = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert waits == sorted(waits)
    assert waits[-1] <= timedelta(minutes=15, seconds=30)
    assert len(asked) < 25
    imported.server.release(answer([*TWELVE, record(12)], '"e2"'))
    imported.advance(minutes=16)
    imported.poll(every=every)
    assert imported.server.requests[-1].headers["if-none-match"] == index.etag
    assert imported.ingest().what == "imported"


@pytest.mark.silo_case(12)
@pytest.mark.parametrize("name", ["no_etag", "status_204_with_etag", "status_304_unasked"])
def test_an_answer_without_a_release_is_a_failure_never_up_to_date(name: str, place: Station) -> None:
    """Else an organism without any index looks healthy."""
    place.server.always(case(name).answer)

    with pytest.raises(SourceUnavailable):
        place.poll()

    assert place.ingest().what == "nothing due"
    assert (place.live, place.served, place.rows) == (None, None, ())


@pytest.mark.silo_case(13)
@pytest.mark.parametrize("error", [EngineFailed, EngineTimedOut, EngineRefused])
def test_an_engine_that_failed_builds_the_unchanged_data_without_a_download(
    error: type[EngineFailed], imported: Station
) -> None:
    """Else one crash of SILO leaves the genomes out until somebody adds another."""
    before = imported.output_tree()
    imported.engine.failures = [error("it broke.", "the last words")]
    imported.server.release(answer([*TWELVE, record(12)], '"e2"'))

    failed = imported.round()
    requests = len(imported.server.requests)
    imported.advance(minutes=1)
    healed = imported.ingest()

    assert (failed.what, failed.log_tail) == ("failed", "the last words")
    assert "the last words" in str(failed.error)
    assert imported.output_tree() != before
    assert (healed.what, healed.downloaded, imported.index.rows) == ("imported", False, 13)
    assert len(imported.server.requests) == requests


@pytest.mark.silo_case(13)
@pytest.mark.silo_case(15)
def test_an_engine_that_fails_for_a_day_is_tried_ever_later_and_never_given_up(imported: Station) -> None:
    """Else a full node costs the release, though nothing was wrong with it."""
    before = imported.output_tree()
    imported.engine.failures = [EngineFailed("no memory.", "") for _ in range(40)]
    imported.server.release(answer([*TWELVE, record(12)], '"e2"'))
    imported.poll()

    for _ in range(40):
        assert imported.ingest().what == "failed"
        (row,) = [row for row in imported.rows if row.state == "pending"]
        assert row.next_attempt_at is not None
        assert row.next_attempt_at - imported.at <= timedelta(minutes=15)
        imported.at = row.next_attempt_at
        assert imported.poll().what == "known"

    assert imported.output_tree() == before
    imported.advance(minutes=15)
    assert imported.ingest().what == "imported"


def test_a_backend_of_two_versions_is_imported_as_the_one_that_came(imported: Station) -> None:
    """Else the ETag of one release stands on the rows of another, and the next is never loaded."""
    imported.server.release(answer([*TWELVE, record(12)], '"e2"'))
    imported.poll()
    imported.server.release(answer([*TWELVE, record(12), record(13)], '"e3"'))

    imported.ingest()

    assert (imported.index.rows, imported.index.etag) == (14, '"e3"')
    assert imported.poll().what == "unchanged"


def test_a_release_that_comes_back_is_imported_again(imported: Station) -> None:
    """Else a backend that was rolled back, and its ETag with it, is never shown."""
    imported.server.release(answer([*TWELVE, record(12)], '"e2"'))
    imported.round()
    imported.server.release(answer(TWELVE, '"e1"'))

    assert imported.round().what == "imported"
    assert (imported.index.rows, imported.index.etag) == (12, '"e1"')


@pytest.mark.silo_case(17)
def test_an_index_that_is_missing_from_the_folder_comes_back_from_the_store(imported: Station) -> None:
    """Else an importer that died behind its commit leaves the old index served for ever."""
    served = imported.served
    assert served is not None
    content = (served.path / "default.silo").read_text()
    served.path.rename(imported.root / "lost")
    assert needs_serving(imported.rails, imported.organism)

    report = imported.ingest()

    assert report.what == "nothing due"
    assert report.warnings
    assert imported.served == served
    assert (served.path / "default.silo").read_text() == content
    assert len(imported.engine.builds) == 1


@pytest.mark.silo_case(26)
def test_the_store_holds_one_snapshot_more_than_the_ledger_names(imported: Station) -> None:
    """Else an organism that retention never takes fills the store."""
    for n in range(12, 17):
        imported.server.release(answer([*TWELVE, *map(record, range(12, n + 1))], f'"{n}"'))
        assert imported.round().what == "imported"

    kept = imported.rails.store.names_below(imported.index.uri)
    assert imported.index.snapshot in kept
    assert len(kept) == 2
    assert len(imported.rows) <= 2


def test_bad_configuration_waits_for_its_correction(imported: Station) -> None:
    """Else a typo in a config map costs a release."""
    imported.server.release(answer([*TWELVE, record(12)], '"e2"'))
    config = imported.organism.preprocessing_config
    assert config is not None
    text = config.read_text()
    config.write_text("[")

    report = imported.round()
    config.write_text(text)
    imported.advance(minutes=1)

    assert report.what == "failed"
    assert "not YAML" in str(report.error)
    assert imported.ingest().what == "imported"
