"""What an import does when the data stays as it was: hard refreshes, lineage files, configuration, clocks."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_platform.silo.discover import SPREAD, Past, next_refresh
from ingest_platform.silo.model import Organism
from ingest_platform.silo.served import VERSION_FILE, indexes
from ingest_platform_tests.silo_station import NOON, Station, new_station
from ingest_platform_tests.silo_world import (
    TWELVE,
    Answer,
    Loculus,
    Request,
    answer,
    loculus,
    record,
    write_database,
)

DEFINITIONS = b"A: {}\nA.1: {parents: [A]}\n"
NEWER = DEFINITIONS + b"A.2: {parents: [A]}\n"
HOUR = timedelta(hours=1)


@dataclass
class Lineages:
    """A web host of definition files, whose content the test changes."""

    server: Loculus
    files: dict[str, Answer] = field(default_factory=dict)  # system/version → answer

    def put(self, name: str, content: bytes) -> str:
        """The file's URL."""
        self.files[name] = Answer(content, framing="length")
        return f"{self.server.url}/{name}"

    def answer(self, request: Request) -> Answer:
        return self.files.get(
            request.path.removeprefix("/organism/"), Answer(b"no such file", 404, framing="length")
        )


@contextmanager
def lineage_host() -> Iterator[Lineages]:
    with loculus() as server:
        host = Lineages(server)
        server.rule = host.answer
        yield host


@pytest.fixture
def host() -> Iterator[Lineages]:
    with lineage_host() as made:
        yield made


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Station]:
    with new_station(tmp_path) as made:
        yield made


@pytest.fixture
def imported(place: Station) -> Station:
    """Twelve records under "e1", indexed and served."""
    place.server.release(answer(TWELVE, '"e1"'))
    place.round()
    return place


def with_lineages(place: Station, urls: Mapping[str, Mapping[int, str]]) -> None:
    config = write_database(place.root / "config", lineage_system=next(iter(urls)))
    place.configure(lineage_definitions={s: dict(v) for s, v in urls.items()}, preprocessing_config=config)


def lineage_of_last_build(place: Station, system: str = "pango") -> bytes:
    return place.engine.builds[-1][f"{system}.yaml"]


@pytest.mark.silo_case(20)
def test_after_the_interval_everything_is_looked_at_without_a_condition(imported: Station) -> None:
    """Else what changed without a new ETag, as terms that ran out, is never shown."""
    before, refreshed = imported.output_tree(), imported.index.refreshed_at
    imported.advance(hours=1)

    polled, report = imported.poll(), imported.ingest()

    assert (polled.what, report.what, report.downloaded) == ("hard refresh", "unchanged", True)
    assert "if-none-match" not in imported.server.requests[-1].headers
    assert imported.index.refreshed_at > refreshed + HOUR
    assert imported.output_tree() == before
    assert len(imported.engine.builds) == 1
    assert imported.poll().what == "unchanged"


@pytest.mark.silo_case(20)
def test_data_that_changed_under_the_same_etag_is_picked_up(imported: Station) -> None:
    """Else a proxy's stale ETag hides a withdrawn genome for ever."""
    imported.server.release(answer(TWELVE[:11], '"e1"'))
    imported.advance(hours=1)

    assert imported.round().what == "imported"
    assert imported.index.rows == 11


@pytest.mark.silo_case(20)
def test_a_refresh_that_fails_moves_no_timestamp_and_is_tried_again(imported: Station) -> None:
    """Else one bad minute costs an hour, or the next refresh never comes."""
    index = imported.index
    imported.advance(hours=1)
    imported.poll()
    imported.server.always(Answer(status=503, framing="length"))

    failed = imported.ingest()
    imported.server.release(answer(TWELVE, '"e1"'))
    imported.advance(minutes=1)
    healed = imported.ingest()

    assert failed.what == "failed"
    assert failed.index == index
    assert healed.what == "unchanged", healed.error
    assert imported.index.refreshed_at > index.refreshed_at


@pytest.mark.silo_case(20)
def test_refreshes_of_a_day_leave_no_rows_behind(imported: Station) -> None:
    """Else the ledger grows by a row an hour and organism for ever."""
    for _ in range(24):
        imported.advance(hours=1)
        assert imported.poll().what == "hard refresh"
        assert imported.ingest().what == "unchanged"

    assert len(imported.rows) == 1


def test_an_interval_of_zero_makes_each_poll_a_refresh(imported: Station) -> None:
    """As the original container did: somebody's configuration relies on it."""
    imported.configure(hard_refresh_seconds=0)

    assert [(imported.poll().what, imported.ingest().what) for _ in range(3)] == [
        ("hard refresh", "unchanged")
    ] * 3


@pytest.mark.silo_case(20)
@given(st.text(min_size=1), st.integers(1, 10**6), st.integers(0, 10**6))
def test_refreshes_are_spread_and_never_later_than_the_interval(name: str, interval: int, age: int) -> None:
    """Else all organisms refresh in the same second, or one of them too late."""
    organism = Organism.model_construct(
        id=name, backend_url="http://h/x", output=Path("out"), hard_refresh_seconds=interval
    )

    due = next_refresh(organism, None, Past(ordered_at=NOON - timedelta(seconds=age)), NOON)

    assert due is not None
    wait = timedelta(seconds=interval)
    assert NOON <= due <= max(NOON, NOON - timedelta(seconds=age) + wait)
    assert due == NOON or due >= NOON - timedelta(seconds=age) + wait * (1 - SPREAD)


@pytest.mark.silo_case(28)
def test_a_clock_that_goes_back_two_hours_neither_storms_nor_freezes(imported: Station) -> None:
    """Else a time server's correction costs hours without news, or a download at every poll."""
    imported.advance(hours=-2)

    looked = []
    for n in range(240):
        if n == 120:
            imported.server.release(answer([*TWELVE, record(12)], '"e2"'))
        looked.append((imported.poll(every=timedelta(seconds=30)).what, imported.ingest().what))
        imported.advance(seconds=29)

    whats = [what for what, _ in looked]
    assert 1 <= whats.count("hard refresh") <= 4
    assert whats.count("new release") == 1
    assert looked[120] == ("new release", "imported")
    assert imported.index.etag == '"e2"'
    assert imported.served is not None
    assert imported.served.timestamp == imported.index.index_timestamp


@pytest.mark.silo_case(28)
def test_a_refresh_that_fails_after_the_clock_went_back_does_not_storm(imported: Station) -> None:
    """Else a broken release is loaded at every poll until the clock has caught up."""
    imported.advance(hours=-2)
    imported.server.release(answer(TWELVE, '"e1"', headers={"ETag": '"e1"', "x-total-records": "9"}))

    downloads = 0
    for _ in range(100):
        imported.poll()
        downloads += imported.ingest().what == "failed"
        imported.advance(seconds=30)

    # In 51 minutes: at 0, 0.5, 1.5, 3.5, 7.5, 15.5, 30.5 and 45.5.
    assert downloads == 8


@pytest.mark.silo_case(21)
def test_a_changed_lineage_file_rebuilds_the_unchanged_data_at_the_refresh(
    place: Station, host: Lineages
) -> None:
    """Else a new lineage is searched for in vain until somebody submits a genome."""
    with_lineages(place, {"pango": {1: host.put("pango/1", DEFINITIONS)}})
    place.server.release(answer(TWELVE, '"e1"'))
    place.round()
    first = place.index
    host.put("pango/1", NEWER)
    place.advance(hours=1)

    report = place.round()

    assert report.what == "imported"
    assert lineage_of_last_build(place) == NEWER
    assert (place.index.content_hash, place.index.etag) == (first.content_hash, first.etag)
    assert place.index.index_hash != first.index_hash
    assert place.index.lineages[0]["sha256"] != first.lineages[0]["sha256"]


def test_a_changed_database_config_or_engine_rebuilds_too(imported: Station) -> None:
    """Else a new column, or an engine whose format SILO's API wants, waits for the next genome."""
    config = imported.organism.preprocessing_config
    assert config is not None
    file = config.with_name("database_config.yaml")
    file.write_text(json.dumps({**json.loads(file.read_text()), "note": "new"}))
    imported.advance(hours=1)
    by_config = imported.round()
    imported.engine.version = "2"
    imported.advance(hours=1)

    assert (by_config.what, imported.round().what) == ("imported", "imported")
    assert imported.index.engine == "scripted 2"


BROKEN: Mapping[str, tuple[Answer | None, str]] = {
    "404": (None, "answered 404"),
    "500": (Answer(b"", 500, framing="length"), "answered 500"),
    "not YAML": (Answer(b"a: [", framing="length"), "not YAML"),
    "a circle": (Answer(b"A: {parents: [B]}\nB: {parents: [A]}", framing="length"), "a circle: "),
    "an unknown value": (Answer(b"A: {}\n", framing="length"), r"metadata.lineage \('A.1': 13\)"),
}


@pytest.mark.silo_case(22)
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_lineage_file_fails_before_the_engine_and_costs_no_second_download(
    fault: str, place: Station, host: Lineages
) -> None:
    """Else mpox is loaded every 30 seconds because a YAML file is missing."""
    with_lineages(place, {"pango": {1: host.put("pango/1", DEFINITIONS)}})
    place.server.release(answer(TWELVE, '"e1"'))
    place.round()
    before = place.output_tree()
    broken, words = BROKEN[fault]
    host.files = {} if broken is None else {"pango/1": broken}
    place.server.release(answer([*TWELVE, record(12)], '"e2"'))

    first = place.round()
    asked = len(place.downloads)
    for _ in range(10):
        place.advance(minutes=16)
        assert place.poll().what == "known"
        report = place.ingest()
        assert (report.what, report.downloaded) == ("failed", False)
        with pytest.raises(Exception, match=f"lineage system pango, pipeline version 1.*{words}"):
            raise report.error or AssertionError
    host.put("pango/1", DEFINITIONS)
    place.advance(minutes=16)
    healed = place.ingest()

    assert (first.what, first.downloaded) == ("failed", True)
    assert len(place.downloads) == asked
    assert len(place.engine.builds) == 2
    assert (healed.what, healed.downloaded, place.index.rows) == ("imported", False, 13)
    assert set(before) < set(place.output_tree())


@pytest.mark.silo_case(22)
def test_a_version_without_a_url_is_told_with_those_that_have_one(place: Station, host: Lineages) -> None:
    """Else the operator searches in the pipeline what is missing in the configuration."""
    with_lineages(place, {"pango": {2: host.put("pango/2", DEFINITIONS)}})
    place.server.release(answer(TWELVE, '"e1"'))

    report = place.round()

    assert "lineage system pango, pipeline version 1: no URL; there are URLs for 2" in str(report.error)
    assert place.engine.builds == []


@pytest.mark.silo_case(23)
def test_several_versions_are_refused_only_where_lineages_are_configured(
    place: Station, host: Lineages
) -> None:
    """Else half the genomes are searched with another version's lineages."""
    mixed = [record(n, pipeline_version=version) for n, version in enumerate((1, 2, "1"))]
    place.server.release(answer(mixed, '"mixed"'))
    without = place.round()
    with_lineages(place, {"pango": {1: host.put("pango/1", DEFINITIONS)}})
    place.advance(hours=1)

    configured = place.round()

    assert without.what == "imported"
    assert without.index is not None
    assert without.index.pipeline_versions == {1: 2, 2: 1}
    assert configured.what == "failed"
    assert "(1: 2 records, 2: 1 records)" in str(configured.error)


@pytest.mark.silo_case(23)
def test_records_without_a_version_get_an_empty_definition(place: Station, host: Lineages) -> None:
    """Else an organism whose pipeline has not run yet has no index."""
    with_lineages(place, {"pango": {1: host.put("pango/1", DEFINITIONS)}})
    place.server.release(answer([record(n, pipeline_version=None, lineage=None) for n in range(2)]))

    assert place.round().what == "imported"
    assert lineage_of_last_build(place) == b"{}\n"
    assert place.index.pipeline_versions == {None: 2}


@pytest.mark.silo_case(24)
def test_a_pipeline_bump_changes_data_and_every_systems_file_together(place: Station, host: Lineages) -> None:
    """Else v2 data is searched with v1 lineages, or one system lags behind the other."""
    files = {
        f"{system}/{n}": f"# {system} {n}\n".encode() + DEFINITIONS
        for system in ("pango", "clades")
        for n in (1, 2)
    }
    urls = {
        system: {n: host.put(f"{system}/{n}", files[f"{system}/{n}"]) for n in (1, 2)}
        for system in ("pango", "clades")
    }
    with_lineages(place, urls)

    for version in (1, 2):
        records = [record(n, pipeline_version=version) for n in range(3)]
        place.server.release(answer(records, f'"v{version}"'))
        assert place.round().what == "imported"
        for system in ("pango", "clades"):
            assert lineage_of_last_build(place, system) == files[f"{system}/{version}"]

    assert [(each["system"], each["version"]) for each in place.index.lineages] == [
        ("clades", 2),
        ("pango", 2),
    ]


@pytest.mark.silo_case(26)
def test_after_many_imports_two_indexes_stay_and_what_is_not_ours_too(place: Station) -> None:
    """Else the disk fills up, or somebody else's folder is lost."""
    output = place.organism.output
    strangers = {"9999999999": None, "3123": "somethingInvalidInHere", "3124": "not even YAML", "notes": None}
    for name, text in strangers.items():
        (output / name).mkdir(parents=True)
        if text is not None:
            (output / name / VERSION_FILE).write_text(text)

    for n in range(5):
        place.server.release(answer(list(map(record, range(n + 1))), f'"{n}"'))
        assert place.round().what == "imported"

    assert len(indexes(output)) == 2
    assert place.served is not None
    assert place.served.timestamp == place.index.index_timestamp
    assert {path.name for path in output.iterdir() if not path.name.startswith(".")} == set(strangers) | {
        str(index.timestamp) for index in indexes(output)
    }
