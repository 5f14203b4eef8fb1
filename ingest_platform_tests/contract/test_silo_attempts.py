"""What a failed or dead attempt leaves behind: in the store, in the kept body, in the output folder."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from backports import zstd

from ingest_platform.catalog.claim import LEASE
from ingest_platform.catalog.model import Claim
from ingest_platform.errors import LostLease, StoreUnavailable
from ingest_platform.silo import ingest
from ingest_platform.silo.engines.contract import EngineFailed
from ingest_platform.silo.read import SOURCE
from ingest_platform.silo.serve import collect
from ingest_platform_tests.silo_bench import wait_until
from ingest_platform_tests.silo_station import Runner, Station, new_station
from ingest_platform_tests.silo_world import TWELVE, answer, record

THIRTEEN = [*TWELVE, record(12)]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Station]:
    """Twelve records under "e1" are released, nothing is imported yet."""
    with new_station(tmp_path, hard_refresh_seconds=10**6) as made:
        made.server.release(answer(TWELVE, '"e1"'))
        yield made


@pytest.fixture
def imported(place: Station) -> Station:
    place.round()
    return place


def failing(point: str, error: BaseException) -> Callable[[str], None]:
    def at(passed: str) -> None:
        if passed == point:
            raise error

    return at


def uris(place: Station) -> list[str]:
    return list(place.rails.store.list_uris({SOURCE}))


def claimed(place: Station) -> Claim:
    """By an importer that then dies, or sleeps."""
    claim = place.catalog.claim(SOURCE, place.organism.id, owner="other", lease=LEASE)
    assert claim is not None
    return claim


@pytest.mark.silo_case(16)
def test_first_imports_that_fail_leave_nothing_in_the_store(place: Station) -> None:
    """Else each failure for want of room leaves a whole copy, and the disk stays full for ever."""
    whole = place.rails
    place.rails = replace(whole, at=failing("after store", OSError(28, "No space left on device")))
    place.poll()

    for _ in range(5):
        assert place.ingest().what == "failed"
        assert uris(place) == []
        place.advance(minutes=20)

    place.rails = whole
    assert place.ingest().what == "imported"
    assert uris(place) == [place.index.uri]


@pytest.mark.silo_case(17)
def test_what_killed_first_imports_have_written_goes_with_the_next_one(place: Station) -> None:
    """Else each death before the first index leaves a copy that no one names and no one deletes."""
    neighbour = "silo/organism-2/" + "a" * 24
    place.rails.store.put(f"{neighbour}/1-a/body", b"another's")
    place.poll()
    dead = claimed(place)
    place.rails.store.put(f"{dead.uri}/{dead.token}-a/body", b"half")
    place.advance(minutes=5)

    report = place.ingest()

    assert (report.what, report.warnings) == ("imported", [])
    assert sorted(uris(place)) == sorted([neighbour, place.index.uri])


@pytest.mark.silo_case(16)
@pytest.mark.silo_case(17)
def test_a_commit_whose_answer_was_lost_keeps_its_bytes(place: Station) -> None:
    """Else the ledger names an index that its own importer has deleted."""
    whole = place.rails
    place.rails = replace(whole, at=failing("after commit", OSError(104, "Connection reset by peer")))
    assert place.round().what == "failed"
    place.rails = whole

    healed = place.ingest()

    assert healed.error is None
    assert place.index.etag == '"e1"'
    assert place.served is not None
    assert place.served.timestamp == place.index.index_timestamp


@pytest.mark.silo_case(16)
def test_a_runners_index_stays_exactly_if_the_ledger_names_it(imported: Station) -> None:
    """Else a lost answer deletes the index that was just published, or an unnamed one is served."""
    runner = Runner(lambda: imported.at, output=imported.organism.output)
    whole = replace(imported.rails, choose_engine=lambda _organism, _environ: runner)
    imported.server.release(answer(THIRTEEN, '"e2"'))
    imported.poll()

    def relieve(point: str) -> None:
        if point == "after store":
            imported.at += LEASE + timedelta(seconds=1)
            with suppress(LostLease):
                claimed(imported)

    before = imported.served
    imported.rails = replace(whole, at=relieve)
    relieved = imported.ingest()
    assert (relieved.what, type(relieved.error)) == ("failed", LostLease)
    assert imported.served == before

    imported.advance(minutes=5)
    imported.rails = replace(whole, at=failing("after commit", OSError(104, "Connection reset")))
    assert imported.ingest().what == "failed"
    assert imported.index.rows == 13
    assert imported.served is not None
    assert imported.served.timestamp == imported.index.index_timestamp


def keep_a_body(place: Station) -> Path:
    """Thirteen records are downloaded; their engine broke."""
    place.engine.failures = [EngineFailed("no memory.", "")]
    place.server.release(answer(THIRTEEN, '"e2"'))
    assert place.round().downloaded
    (body,) = (place.rails.kept / place.organism.id).glob("*.zst")
    place.advance(minutes=1)
    return body


@pytest.mark.silo_case(17)
@pytest.mark.parametrize("torn", ["empty", "zeros", "other records"])
def test_a_kept_body_that_a_power_cut_has_torn_is_loaded_again_at_once(torn: str, imported: Station) -> None:
    """Else the organism stands still until the next release: a body is never doubted."""
    body = keep_a_body(imported)
    other = zstd.compress(zstd.decompress(body.read_bytes()).replace(b"LOC_000012", b"LOC_000099"))
    body.write_bytes({"empty": b"", "zeros": bytes(body.stat().st_size), "other records": other}[torn])

    report = imported.ingest()

    assert (report.what, report.downloaded) == ("imported", True), report.error
    assert imported.index.rows == 13
    assert b"LOC_000012" in zstd.decompress(imported.engine.builds[-1]["data.ndjson.zst"])


def test_a_kept_body_serves_no_other_release(imported: Station) -> None:
    """Else the old release is published under the new one's ETag, and the new one is never loaded."""
    keep_a_body(imported)
    imported.server.release(answer([*THIRTEEN, record(13)], '"e3"'))

    report = imported.round()

    assert (report.what, report.downloaded) == ("imported", True)
    assert (imported.index.rows, imported.index.etag) == (14, '"e3"')


@pytest.mark.silo_case(19)
def test_a_late_importer_does_not_collect_its_successors_snapshot(imported: Station) -> None:
    """Else a paused container wakes up and deletes the index that readers open."""
    imported.server.release(answer(THIRTEEN, '"e2"'))
    imported.poll()
    late = claimed(imported)
    imported.advance(minutes=5)
    assert imported.ingest().what == "imported"

    assert collect(imported.rails, late) == ()

    index = imported.index
    assert index.snapshot in imported.rails.store.names_below(index.uri)


@pytest.mark.silo_case(16)
@pytest.mark.parametrize("moment", ["before claim", "after store"])
def test_a_store_whose_disk_is_gone_takes_no_index(moment: str, imported: Station) -> None:
    """Else the index is written below the mount point, and is gone when the disk comes back."""
    folder = imported.rails.store.folder
    assert folder is not None
    marker, index = folder / "ledger-id", imported.index
    text = marker.read_text()
    imported.server.release(answer(THIRTEEN, '"e2"'))
    imported.poll()
    if moment == "before claim":
        marker.unlink()
    else:
        whole = imported.rails
        imported.rails = replace(whole, at=lambda at: marker.unlink() if at == moment else None)

    report = imported.ingest()

    assert isinstance(report.error, StoreUnavailable)
    assert "Is its disk mounted" in str(report.error)
    assert (imported.index, len(imported.engine.builds)) == (index, 1 + (moment == "after store"))
    assert [row.attempts for row in imported.rows if row.state == "pending"] == [0]
    marker.write_text(text)
    imported.rails = replace(imported.rails, at=lambda _: None)
    imported.advance(minutes=1)
    assert imported.ingest().what == "imported"


@pytest.mark.silo_case(28)
def test_numbers_grow_even_if_the_folder_was_lost_and_the_clock_went_back(imported: Station) -> None:
    """Else an API that still serves the old number never takes the new index."""
    before = imported.index.index_timestamp
    (imported.organism.output / str(before)).rename(imported.root / "lost")
    imported.advance(hours=-2)
    imported.server.release(answer(THIRTEEN, '"e2"'))

    assert imported.round().what == "imported"
    assert imported.index.index_timestamp > before


@pytest.mark.silo_case(19)
def test_a_build_that_outlasts_the_lease_keeps_it(imported: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a second importer starts beside each long build, and one of both works for nothing."""
    monkeypatch.setattr(ingest, "LEASE", timedelta(seconds=0.06))
    refused: list[bool] = []

    def lease_until() -> bool:
        (row,) = imported.catalog.partitions(SOURCE)
        return row.lease_until is not None and row.lease_until > imported.at

    def at(point: str) -> None:
        if point == "after engine":
            imported.advance(seconds=10)
            wait_until(lease_until)
            refused.append(imported.catalog.claim(SOURCE, imported.organism.id, owner="other") is None)

    imported.rails = replace(imported.rails, at=at)
    imported.server.release(answer(THIRTEEN, '"e2"'))

    assert imported.round().what == "imported"
    assert refused == [True]


@pytest.mark.silo_case(17)
def test_nothing_is_served_before_the_ledger_names_it(imported: Station) -> None:
    """Else the API shows an index that the next import knows nothing of."""
    before, seen = imported.served, []
    imported.rails = replace(imported.rails, at=lambda point: seen.append((point, imported.served)))
    imported.server.release(answer(THIRTEEN, '"e2"'))

    assert imported.round().what == "imported"

    points = [point for point, _ in seen]
    until = points.index("after commit") + 1
    assert {index for _, index in seen[:until]} == {before}
    assert imported.served != before
