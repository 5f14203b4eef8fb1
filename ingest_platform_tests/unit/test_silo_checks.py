"""The verdicts over organisms, from states as `status` gathers them; what is shown of an index."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_platform.catalog.model import ObjectRow
from ingest_platform.pages.verdict import Verdict
from ingest_platform.silo.checks import LONGEST_OUTAGE, UNHEEDED_POLLS, State, verdicts
from ingest_platform.silo.discover import Past
from ingest_platform.silo.model import Organism
from ingest_platform.silo.read import Live
from ingest_platform.silo.served import Index
from ingest_platform.silo.summary import PLOTTED, SHOWN_IN_PLACE_CHARACTERS, growth, told

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
OUTPUT = Path("/silo/ebola")
EBOLA = Organism(
    id="ebola",
    backend_url="http://backend/ebola",
    preprocessing_config=Path("/config/preprocessing_config.yaml"),
    output=OUTPUT,
)
LIVE = Live(
    organism="ebola",
    uri="silo/ebola/abc",
    snapshot="1-abc",
    rows=100,
    body_bytes=1_000,
    content_bytes=50_000,
    index_bytes=5_000,
    content_hash="c" * 64,
    index_hash="i" * 64,
    etag='"e1"',
    pipeline_versions={1: 99, None: 1},
    lineages=(),
    warnings=(),
    engine="rhydb 0.16.0",
    engine_seconds=1.5,
    log_tail="saved",
    built_at=NOON - HOUR,
    refreshed_at=NOON - HOUR,
    index_timestamp=1795269573,
)
SOUND = State(EBOLA, LIVE, Index(OUTPUT / "1795269573", 1795269573, "1"), served_rows=100, history=(90, 100))


def judged(state: State, name: str, now: datetime = NOON) -> Verdict:
    return verdicts([state], now)[name]


def failing(state: State, now: datetime = NOON) -> set[str]:
    return {name for name, verdict in verdicts([state], now).items() if not verdict.passed}


def unfinished(state: str, error: str = "Damaged: record 7") -> ObjectRow:
    return ObjectRow(
        7,
        "ebola",
        "http://backend/ebola",
        "get-released-data",
        '"e2"',
        "ebola",
        NOON,
        0,
        state,
        2,
        None,
        error,
    )


def test_a_sound_organism_passes_every_check() -> None:
    """Checks that are always red are looked at by nobody."""
    assert failing(SOUND) == set()


def test_no_organisms_at_all_fail_nothing() -> None:
    """Who ingests weather only must not be alarmed about genomes."""
    assert {verdict.passed for verdict in verdicts([], NOON).values()} == {True}


@pytest.mark.silo_case(15)
def test_an_output_folder_without_the_named_index_fails() -> None:
    """The website shows old genomes, or nothing, while every import is green."""
    older = Index(OUTPUT / "1", 1, "1")

    assert failing(replace(SOUND, served=None, served_rows=None)) == {"index_served"}
    assert failing(replace(SOUND, served=older)) == {"index_served"}
    assert "1795269573" in judged(replace(SOUND, served=older), "index_served").message


@pytest.mark.silo_case(15)
def test_an_index_that_the_ledger_does_not_name_fails_with_both_numbers() -> None:
    """Genomes that nobody released are shown, and nobody knows whose they are."""
    stranger = replace(SOUND, served=Index(OUTPUT / "1795269999", 1795269999, "1"))

    assert failing(stranger) == {"index_served"}
    told = judged(stranger, "index_served").message
    assert "the API serves 1795269999, the ledger names 1795269573" in told


def test_an_index_with_a_torn_file_fails_though_its_number_is_right() -> None:
    """After a power cut the API answers with half the genomes, and every number looks well."""
    torn = replace(SOUND, standing="hidden")

    assert failing(torn) == {"index_served"}
    assert "not whole any more" in judged(torn, "index_served").message


def test_an_output_folder_that_cannot_be_read_fails_with_the_disks_words() -> None:
    """ "No finished index" sends people to the engine where a mount's permissions are wrong."""
    closed = replace(SOUND, served=None, served_rows=None, unreadable="[Errno 13] Permission denied: '1'")

    assert failing(closed) == {"index_served"}
    assert "Permission denied" in judged(closed, "index_served").message


def test_rows_that_the_engine_lost_fail() -> None:
    """Genomes that were released and cannot be found."""
    verdict = judged(replace(SOUND, served_rows=99), "rows_match")

    assert not verdict.passed
    assert "99 rows are served, the snapshot has 100" in verdict.message


def test_rows_that_nobody_can_count_fail_nothing() -> None:
    """A foreign engine's index is not readable here; that is no finding."""
    assert failing(replace(SOUND, served_rows=None)) == set()


@pytest.mark.silo_case(9)
@pytest.mark.parametrize(("rows", "passed"), [(50, True), (49, False), (0, False), (1_000, True)])
def test_a_drop_of_more_than_the_limit_fails(rows: int, passed: bool) -> None:
    """Somebody accepted it once; others must still see that half of the genomes went."""
    state = replace(SOUND, history=(7, 100, rows))

    assert judged(state, "row_drop").passed is passed


def test_an_import_of_nothing_after_nothing_is_no_drop() -> None:
    """A new organism begins empty."""
    assert judged(replace(SOUND, history=(0, 0)), "row_drop").passed
    assert judged(replace(SOUND, history=(5,)), "row_drop").passed


def test_a_release_that_waits_or_was_given_up_fails_with_its_reason() -> None:
    """Upstream's failures go unnoticed for days: what is not taken must be seen, with its words."""
    waits = judged(replace(SOUND, unfinished=(unfinished("pending"),)), "release_taken")
    lost = judged(
        replace(SOUND, unfinished=(unfinished("pending", "x"), unfinished("quarantined"))), "release_taken"
    )

    assert not waits.passed
    assert "Damaged: record 7 (tried again" in waits.message
    assert "ingest requeue" in lost.message


@pytest.mark.parametrize(("refresh_seconds", "limit"), [(3600, 2 * HOUR), (0, timedelta(minutes=10))])
def test_an_index_is_fresh_for_twice_its_hard_refresh(refresh_seconds: int, limit: timedelta) -> None:
    """One refresh may fail; but an hourly import that last worked yesterday is an outage."""
    organism = EBOLA.model_copy(update={"hard_refresh_seconds": refresh_seconds})
    state = replace(SOUND, organism=organism, live=replace(LIVE, refreshed_at=NOON))

    assert judged(state, "fresh", NOON + limit).passed
    assert not judged(state, "fresh", NOON + limit + timedelta(seconds=1)).passed


def test_an_organism_that_was_never_imported_is_not_fresh() -> None:
    """A new line in the configuration that nobody works on must not look like health."""
    assert failing(State(EBOLA, None, None)) == {"fresh"}


@pytest.mark.silo_case(10)
def test_a_backend_that_is_away_for_long_fails_with_its_words_and_since_when() -> None:
    """New genomes are missing, and with a hard refresh of a day `fresh` is green until tomorrow."""
    away = replace(
        SOUND, past=Past(failures=7, failing_since=NOON - LONGEST_OUTAGE, why="ebola: answered 503")
    )

    assert failing(away) == set()
    assert failing(away, NOON + timedelta(seconds=1)) == {"backend_answers"}
    assert (
        "7 polls in a row failed since 2026-11-21 11:30:00Z: ebola: answered 503"
        in judged(away, "backend_answers", NOON + HOUR).message
    )


@pytest.mark.silo_case(4)
def test_conditional_requests_that_nobody_heeds_are_a_remark() -> None:
    """Each poll is a full query then, and only the backend's operator would notice."""
    state = replace(SOUND, past=Past(unheeded=UNHEEDED_POLLS))

    assert failing(replace(SOUND, past=Past(unheeded=UNHEEDED_POLLS - 1))) == set()
    assert failing(state) == {"conditional_requests"}
    assert not judged(state, "conditional_requests").severe


@pytest.mark.silo_case(8)
def test_a_snapshot_that_was_not_counted_is_a_remark() -> None:
    """Its completeness rests on the frames alone: somebody should know."""
    absent = "the answer has no x-total-records: the number of records was not checked"

    verdict = judged(replace(SOUND, live=replace(LIVE, warnings=(absent,))), "records_announced")

    assert (verdict.passed, verdict.severe) == (False, False)
    assert absent in verdict.message


def test_lineage_values_taken_for_null_are_a_remark() -> None:
    """They are allowed, and still missing in every lineage query."""
    warning = "lineage system rsv, pipeline version 1: 2 values of metadata.lineage ('X': 2) are unknown"

    assert failing(replace(SOUND, live=replace(LIVE, warnings=(warning,)))) == {"lineages_known"}


def test_every_organism_is_named_in_the_verdict_that_it_fails() -> None:
    """ "Something is wrong with one of twenty" sends people through twenty pages."""
    mpox = replace(SOUND, organism=EBOLA.model_copy(update={"id": "mpox"}), served=None)

    verdict = verdicts([SOUND, mpox], NOON)["index_served"]

    assert verdict.message.startswith("mpox: ")
    assert "ebola" not in verdict.facts


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=2 * PLOTTED))
def test_a_growth_plot_is_always_shown_in_place(rows: list[int]) -> None:
    """A longer Markdown hides behind a click: then nobody sees that the rows halved."""
    drawn = growth(rows)

    assert len(drawn) < SHOWN_IN_PLACE_CHARACTERS
    assert f"{rows[-1]:,} rows" in drawn


def test_an_asset_is_told_anew_only_where_its_part_changed() -> None:
    """A lineage file that changed is no news of the genomes."""
    first = told(LIVE, output=OUTPUT, history=())
    lineage = {"system": "rsv", "version": 1, "url": None, "sha256": "a"}
    second = told(replace(LIVE, lineages=(lineage,), index_hash="j" * 64), output=OUTPUT, history=(100,))

    news = {n for n, t in second.items() if n not in first or first[n].data_version != t.data_version}

    assert set(first) == {"released_snapshot", "silo_ndjson", "silo_index"}
    assert news == {"lineage_definitions", "silo_index"}


def test_an_unchanged_index_with_a_new_etag_is_no_news() -> None:
    """At midnight every organism's ETag changes: twenty empty events a night hide the one that matters."""
    moved = replace(LIVE, etag='"e2"', refreshed_at=NOON)

    versions = [
        [part.data_version for part in told(index, output=OUTPUT, history=()).values()]
        for index in (LIVE, moved)
    ]

    assert versions[0] == versions[1]
