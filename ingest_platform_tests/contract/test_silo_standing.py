"""Whether SILO's API finds the index that the ledger names, and how it comes back where it does not."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ingest_platform.errors import StoreUnavailable
from ingest_platform.silo.discover import refresh
from ingest_platform.silo.ingest import Report, needs_serving
from ingest_platform.silo.serve import RESTORE_AGAIN, standing
from ingest_platform.silo.served import VERSION_FILE, index_at
from ingest_platform_tests.silo_station import Station, new_station
from ingest_platform_tests.silo_world import TWELVE, answer, record


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Station]:
    with new_station(tmp_path) as made:
        yield made


@pytest.fixture
def imported(place: Station) -> Station:
    """Twelve records under "e1", indexed and served; no hard refresh is near."""
    place.configure(hard_refresh_seconds=10**6)
    place.server.release(answer(TWELVE, '"e1"'))
    place.round()
    assert shown(place) == "12 rows"
    return place


def foreign(place: Station, timestamp: int) -> Path:
    """A finished index that no import of ours has made."""
    path = place.organism.output / str(timestamp)
    path.mkdir(parents=True)
    (path / "default.silo").write_text("a stranger's rows")
    (path / VERSION_FILE).write_text(f"timestamp: {timestamp}\nserializationVersion: 7\n")
    return path


def refreshed(place: Station) -> Report:
    """As a poll orders it that finds the index hidden."""
    place.advance(seconds=1)
    refresh(place.rails, place.organism)
    return place.ingest()


def shown(place: Station) -> str:
    """What SILO's API shows, which is what the ledger names."""
    found = place.served
    assert found is not None
    assert (found.timestamp, standing(place.index, place.organism)) == (
        place.index.index_timestamp,
        "served",
    )
    return (found.path / "default.silo").read_text()


def newer(place: Station) -> None:
    foreign(place, place.index.index_timestamp + 500)


def newer_and_ours_lost(place: Station) -> None:
    newer(place)
    shutil.rmtree(place.organism.output / str(place.index.index_timestamp))


def torn(place: Station) -> None:
    (place.organism.output / str(place.index.index_timestamp) / "default.silo").write_text("")


def unfinished(place: Station) -> None:
    (place.organism.output / str(place.index.index_timestamp) / VERSION_FILE).unlink()


def in_the_way(place: Station) -> None:
    path = place.organism.output / str(place.index.index_timestamp)
    shutil.rmtree(path)
    path.write_text("somebody's file")


@pytest.mark.silo_case(17)
@pytest.mark.parametrize("harm", [newer, newer_and_ours_lost, torn, unfinished, in_the_way])
def test_an_index_that_the_api_does_not_take_comes_again_under_a_number_that_it_takes(
    harm: Callable[[Station], None], imported: Station
) -> None:
    """Else the API shows somebody's index, or half of ours, until the next genome is submitted."""
    before = imported.index
    harm(imported)
    others = {path.name for path in imported.organism.output.iterdir()} - {str(before.index_timestamp)}

    assert standing(before, imported.organism) == "hidden"
    assert not needs_serving(imported.rails, imported.organism)
    report = refreshed(imported)

    assert (report.what, report.error) == ("unchanged", None)
    assert any("was not served" in warning for warning in report.warnings)
    assert shown(imported) == "12 rows"
    assert imported.index.index_timestamp > before.index_timestamp
    assert imported.index.snapshot == before.snapshot
    assert len(imported.engine.builds) == 1
    assert others <= {path.name for path in imported.organism.output.iterdir()}
    assert refreshed(imported).what == "unchanged"


@pytest.mark.silo_case(17)
def test_a_renumbered_index_that_is_lost_comes_back_under_the_number_of_the_ledger(imported: Station) -> None:
    """Else it comes back under the number that it was built with, below the one that hid it."""
    newer(imported)
    refreshed(imported)
    shutil.rmtree(imported.organism.output)
    assert standing(imported.index, imported.organism) == "missing"
    assert needs_serving(imported.rails, imported.organism)

    report = imported.ingest()

    assert report.error is None
    assert shown(imported) == "12 rows"


def test_a_death_between_the_new_number_and_its_folder_is_mended(imported: Station) -> None:
    """Else the ledger names a number that nothing has."""
    newer(imported)

    def away(point: str) -> None:
        if point == "before publish":
            raise OSError(5, "Input/output error")

    whole = imported.rails
    imported.rails = replace(whole, at=away)
    assert isinstance(refreshed(imported).error, StoreUnavailable)
    imported.rails = whole
    imported.advance(minutes=6)

    assert standing(imported.index, imported.organism) == "missing"
    assert imported.ingest().error is None
    assert shown(imported) == "12 rows"


@pytest.mark.silo_case(19)
def test_a_number_that_somebody_takes_during_the_import_is_not_passed_off_as_ours(imported: Station) -> None:
    """Else another program's index is served as the one whose hash the ledger names."""
    taken: list[Path] = []

    def at(point: str) -> None:
        if point == "after store" and not taken:
            taken.append(foreign(imported, int(imported.at.timestamp())))

    imported.rails = replace(imported.rails, at=at)
    imported.server.release(answer([*TWELVE, record(12)], '"e2"'))

    report = imported.round()

    assert report.what == "imported"
    assert "holds another index" in str(report.error)
    assert standing(imported.index, imported.organism) == "hidden"
    assert refreshed(imported).error is None
    assert shown(imported) == "13 rows"
    assert (taken[0] / "default.silo").read_text() == "a stranger's rows"


def test_an_index_that_cannot_be_restored_is_not_fetched_at_each_poll(imported: Station) -> None:
    """Else a broken store costs 120 indexes of traffic an hour, and Dagster a failed run a minute."""
    index, store = imported.index, imported.rails.store
    path = f"{index.uri}/{index.snapshot}/index/default.silo"
    whole = store.get(path)
    store.put(path, b"rotten".ljust(len(whole)))
    shutil.rmtree(imported.organism.output)

    wanted = 0
    for _ in range(120):
        wanted += needs_serving(imported.rails, imported.organism)
        report = imported.ingest()
        assert report.what == "failed"
        imported.advance(seconds=30)
    store.put(path, whole)
    imported.advance(seconds=RESTORE_AGAIN.total_seconds())

    assert 10 <= wanted <= 12
    assert imported.ingest().error is None
    assert shown(imported) == "12 rows"
    assert not needs_serving(imported.rails, imported.organism)
    shutil.rmtree(imported.organism.output)
    assert needs_serving(imported.rails, imported.organism)


def test_an_output_folder_that_cannot_be_read_is_told_with_its_name(imported: Station) -> None:
    """Else one organism's bad disk ends the importer of all."""
    path = imported.organism.output / str(imported.index.index_timestamp)
    shutil.rmtree(path)
    path.symlink_to(path)

    with pytest.raises(StoreUnavailable, match=f"{imported.organism.output}: .*symbolic links"):
        needs_serving(imported.rails, imported.organism)
    idle = imported.ingest()
    due = refreshed(imported)

    for report in (idle, due):
        assert report.what == "failed"
        assert isinstance(report.error, StoreUnavailable)
        assert f"{imported.organism.output}: " in str(report.error)
    assert [row.attempts for row in imported.rows if row.state == "pending"] == [0]
    path.unlink()
    imported.advance(minutes=6)
    assert imported.ingest().error is None
    assert shown(imported) == "12 rows"


def test_an_old_index_that_may_not_be_deleted_is_told_by_an_import_that_succeeds(
    imported: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else files that a root container wrote keep every import from ending well."""
    for number in (100, 101):
        foreign(imported, number)
    rename = Path.rename

    def not_ours(path: Path, target: Path) -> Path:
        if path.name == "100":
            raise PermissionError(13, "Permission denied", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", not_ours)
    imported.server.release(answer([*TWELVE, record(12)], '"e2"'))

    report = imported.round()

    assert (report.what, report.error) == ("imported", None)
    assert [told for told in report.warnings if "could not be removed" in told] == report.warnings
    assert len(report.warnings) == 1
    assert index_at(imported.organism.output / "100") is not None
    assert index_at(imported.organism.output / "101") is None
    assert shown(imported) == "13 rows"
