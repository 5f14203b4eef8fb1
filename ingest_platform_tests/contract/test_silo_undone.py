"""What `ingest once` and `silo-import --once` say of releases that are not published when they end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest_platform.cli.organisms import left_undone, tell_undone, whole
from ingest_platform.silo import feed
from ingest_platform.silo.ingest import LEASE
from ingest_platform.silo.read import SOURCE
from ingest_platform_tests.silo_station import Station, new_station
from ingest_platform_tests.silo_world import TWELVE, answer, record


@pytest.fixture
def imported(tmp_path: Path) -> Iterator[Station]:
    with new_station(tmp_path) as made:
        made.server.release(answer(TWELVE, '"e1"'))
        made.round()
        yield made


def once(place: Station, capsys: pytest.CaptureFixture[str]) -> tuple[bool, str]:
    """Whether it ends with exit code 0, and what it tells beside the reports."""
    place.advance(seconds=31)
    reports = list(feed.once(place.rails, [place.organism], owner="test"))
    undone = left_undone(place.catalog, [place.organism])
    tell_undone(reports, undone)
    return whole(reports, undone), capsys.readouterr().err


def test_all_is_done_where_the_newest_release_is_served(
    imported: Station, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else cron sends a mail each hour, and nobody reads the one that matters."""
    assert once(imported, capsys) == (True, "")


def test_once_fails_as_long_as_the_newest_release_is_given_up(
    imported: Station, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a cron job is red once and green ever after, while the index is of yesterday."""
    imported.server.release(answer(TWELVE[:2], '"few"'))

    ends = [once(imported, capsys) for _ in range(3)]
    imported.server.release(answer([*TWELVE, record(12)], '"more"'))
    healed = once(imported, capsys)

    assert [well for well, _ in ends] == [False, False, False]
    assert ends[0][1] == ""  # its report has told
    for _, told in ends[1:]:
        assert told.startswith('organism: "few" was given up: RowsLost: organism: 2 records')
        assert "`ingest requeue`" in told
    assert healed == (True, "")


def test_once_says_who_holds_the_organism(imported: Station, capsys: pytest.CaptureFixture[str]) -> None:
    """Else "nothing due" with exit code 1 looks like a fault of the program."""
    imported.server.release(answer([*TWELVE, record(12)], '"e2"'))
    imported.poll()
    assert imported.catalog.claim(SOURCE, "organism", owner="node-7:4711", lease=LEASE, limit=1) is not None

    well, told = once(imported, capsys)

    assert not well
    assert told.startswith('organism: "e2" is not imported yet: node-7:4711 holds the organism until 2026-')


def test_once_says_why_a_release_waits_and_how_long(
    imported: Station, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a second call within the back-off says "nothing due", and the disk is still full."""
    imported.server.release(answer([*TWELVE, record(12)], '"e2"'))
    imported.engine.failures = [OSError(28, "No space left on device")]
    assert imported.round().what == "failed"
    imported.at -= LEASE / 4  # so that the back-off is not over when it is called

    well, told = once(imported, capsys)

    assert not well
    assert told.startswith('organism: "e2" waits: OSError: [Errno 28] No space left')
    assert "It is tried again at 2026-11-21 12:0" in told
