"""Hierarchical filters: a real service makes the file of a field's values; else the index stays as it was."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_platform.errors import Incomplete, SourceUnavailable
from ingest_platform.silo import lineage
from ingest_platform.silo.checks import State, lineages_known
from ingest_platform.silo.database import UNKNOWN
from ingest_platform.silo.model import Organism
from ingest_platform.silo.taxonomy import hierarchies, layout_of
from ingest_platform_tests.loopback import serving
from ingest_platform_tests.silo_station import Station, new_station
from ingest_platform_tests.silo_world import answer, record, write_database

type Said = tuple[int, bytes]

# Taxon → the one above it.
TAXA = {"1": None, "9605": "1", "9606": "9605", "10090": "1"}
HOSTS = ("9606", "10090", "9606", None, "")


@dataclass
class Taxonomy:
    """The service, seen from the test: it answers with the taxa above the given ones, or as `says` says."""

    url: str = ""
    taxa: Mapping[str, str | None] = field(default_factory=lambda: dict(TAXA))
    says: Callable[[str], Said | None] = lambda _path: None
    asked: list[tuple[str, Any]] = field(default_factory=list)  # path, JSON
    drip_seconds: float = 0.0  # before each byte

    def answer(self, path: str, values: list[str]) -> Said:
        return self.says(path) or (200, self.tree(values))

    def tree(self, values: list[str]) -> bytes:
        """As the real service writes it: the asked-for taxa with all above them, YAML."""
        made: dict[str, Any] = {}
        for value in values:
            taxon: str | None = value if value in self.taxa else None
            while taxon is not None:
                above = self.taxa[taxon]
                made[taxon] = {"aliases": [f"Taxon {taxon}"], "parents": [above] if above else []}
                taxon = above
        return yaml.safe_dump(made, sort_keys=False).encode()


@contextmanager
def taxonomy() -> Iterator[Taxonomy]:
    state = Taxonomy()
    with serving(_handler(state)) as state.url:
        yield state


def _handler(state: Taxonomy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.asked.append((self.path, given))
            status, content = state.answer(self.path, given["values"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if state.drip_seconds:
                self._drip(content)
            else:
                self.wfile.write(content)

        def _drip(self, content: bytes) -> None:
            patience = threading.Event()
            for byte in content:
                patience.wait(state.drip_seconds)
                try:
                    self.wfile.write(bytes([byte]))
                except OSError:
                    return

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def service() -> Iterator[Taxonomy]:
    with taxonomy() as running:
        yield running


@pytest.fixture
def place(tmp_path: Path, service: Taxonomy) -> Iterator[Station]:
    """The records' `lineage` is a host, whose file the service makes."""
    config = write_database(tmp_path / "hosts", lineage_system="lineage.yaml")
    with new_station(
        tmp_path, preprocessing_config=config, hierarchical_filters={"lineage": f"{service.url}/"}
    ) as made:
        release(made, HOSTS, '"e1"')
        yield made


def release(place: Station, hosts: tuple[object, ...], etag: str) -> None:
    records = [record(n, lineage=None) for n in range(len(hosts))]
    for one, host in zip(records, hosts, strict=True):
        one["metadata"]["lineage"] = host
    place.server.release(answer(records, etag))


def organism(service: Taxonomy, **changes: Any) -> Organism:
    given = {
        "id": "virus",
        "backend_url": service.url,
        "hierarchical_filters": {"host": service.url},
        "preprocessing_config": "unused",
        "output": "unused",
    }
    return Organism.model_validate(given | changes)


def failure(place: Station) -> str:
    report = place.ingest()
    assert report.what == "failed"
    return str(report.error)


def test_the_service_is_asked_for_each_value_once_and_the_engine_reads_its_file(
    place: Station, service: Taxonomy
) -> None:
    """Else genomes cannot be searched by a group of hosts, or the file lacks some of them."""
    report = place.round()

    assert report.what == "imported", report.error
    assert service.asked == [("/silo-lineage", {"values": ["10090", "9606"]})]
    built = place.engine.builds[-1]
    assert set(yaml.safe_load(built["lineage.yaml"])) == {"1", "9605", "9606", "10090"}
    config = yaml.safe_load(built["preprocessing_config.yaml"])
    assert config["lineageDefinitionFilenames"] == ["lineage.yaml"]
    (told,) = place.index.lineages
    assert (told["system"], told["version"]) == ("lineage", None)
    assert told["url"] == f"{service.url}/silo-lineage"


def test_numbers_are_values_too(place: Station, service: Taxonomy) -> None:
    """Loculus may declare a taxon's id as an integer: nobody would be asked about it."""
    service.taxa = {"0": None, "7": None}
    release(place, (7, 0, 7), '"numbers"')

    assert place.round().what == "imported"
    assert service.asked == [("/silo-lineage", {"values": ["0", "7"]})]


def test_an_answer_that_would_be_too_large_is_asked_for_pruned(place: Station, service: Taxonomy) -> None:
    """Else the organism with the most hosts has no index."""
    service.says = lambda path: None if "prune" in path else (413, b'{"detail": "too large"}')

    report = place.round()

    assert report.what == "imported", report.error
    values = {"values": ["10090", "9606"]}
    assert service.asked == [("/silo-lineage", values), ("/silo-lineage?prune=true", values)]
    assert place.index.lineages[0]["url"] == f"{service.url}/silo-lineage?prune=true"


def test_without_values_the_file_is_empty_and_nobody_is_asked(place: Station, service: Taxonomy) -> None:
    """Else an organism without hosts waits for a service that it does not need."""
    release(place, (None, ""), '"none"')

    assert place.round().what == "imported"
    assert service.asked == []
    assert place.engine.builds[-1]["lineage.yaml"] == b"{}\n"


def test_definitions_and_hierarchies_lie_side_by_side(place: Station, service: Taxonomy) -> None:
    """Else one of two lineage columns is empty."""
    place.configure(lineage_definitions={"pango": {9: "http://127.0.0.1:1/never"}})
    records = [record(n, lineage="9606", pipeline_version=None) for n in range(2)]
    place.server.release(answer(records, '"both"'))

    assert place.round().what == "imported"
    assert {"pango.yaml", "lineage.yaml"} < set(place.engine.builds[-1])
    assert [each["system"] for each in place.index.lineages] == ["pango", "lineage"]


FAULTS: Mapping[str, tuple[Said, str]] = {
    "500": ((500, b"no database"), "answered 500 .*says 'no database'"),
    "422": ((422, b"9606 is no number"), "answered 422 .*says '9606 is no number'"),
    "413 twice": ((413, b""), r"silo-lineage\?prune=true answered 413"),
    "no YAML": ((200, b"a: ["), "not YAML"),
    "no mapping": ((200, b"<html>"), "expected a mapping"),
    "a circle": ((200, b"'9606': {parents: ['9606']}\n'10090': {}"), "a circle: 9606 ← 9606"),
    "a parent that is not there": ((200, b"'9606': {parents: [x]}"), "parent x of 9606 is not defined"),
    "a value less": ((200, b"'9606': {}"), r"2 values of metadata\.lineage \('10090': 1, '9605': 1\) are"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_service_that_fails_costs_neither_the_index_nor_a_second_download(
    fault: str, place: Station, service: Taxonomy
) -> None:
    """Else a service that is away for an hour is a hundred downloads, or an index without hosts."""
    place.round()
    before, loads = place.index, len(place.downloads)
    said, words = FAULTS[fault]
    service.says = lambda _path: said
    release(place, (*HOSTS, "9605"), '"e2"')

    place.poll()
    told = [failure(place)]
    for _ in range(3):
        place.advance(minutes=16)
        assert place.poll().what == "known"
        told.append(failure(place))
    stayed = place.index
    service.says = lambda _path: None
    place.advance(minutes=16)
    healed = place.ingest()

    for each in told:
        assert "lineage" in each
        with pytest.raises(AssertionError, match=f"{service.url}.*{words}|{words}.*{service.url}"):
            raise AssertionError(each)
    assert stayed == before
    assert len(place.downloads) == loads + 1
    assert (healed.what, healed.downloaded, place.index.rows) == ("imported", False, 6)


def test_an_unchanged_taxonomy_builds_nothing_and_a_changed_one_does(
    place: Station, service: Taxonomy
) -> None:
    """Else a host that moved to another group is found under the old one for ever."""
    place.round()
    first = place.index

    place.advance(hours=1)
    same = place.round()
    builds = len(place.engine.builds)
    service.taxa = {**TAXA, "314146": "1", "10090": "314146"}
    place.advance(hours=1)
    other = place.round()

    assert (same.what, builds) == ("unchanged", 1)
    assert (other.what, len(place.engine.builds)) == ("imported", 2)
    assert place.index.content_hash == first.content_hash
    assert b"314146" in place.engine.builds[-1]["lineage.yaml"]


def test_a_field_that_the_database_lacks_is_told_before_a_download(place: Station) -> None:
    """Else a typo asks for no values, and the engine fails without the name of the setting."""
    place.configure(hierarchical_filters={"linage": "http://127.0.0.1:1"})
    place.poll()
    loads = len(place.downloads)

    told = failure(place)

    assert "hierarchical_filters.linage: no such metadata field" in told
    assert "Did you mean lineage?" in told
    assert len(place.downloads) == loads


def test_values_are_looked_at_where_only_the_runner_knows_the_database(service: Taxonomy) -> None:
    """Else the container with a sentinel engine writes an empty file each time."""
    described = organism(service)
    values = {"host": {"9606": 3, "x": 2}}

    assert layout_of(described, UNKNOWN).lineage_fields == ("host",)
    files = hierarchies(described, values, urllib3.PoolManager())
    words = rf"lineage system host, service {service.url}: 1 values of metadata\.host \('x': 2\) are not in"
    with pytest.raises(Incomplete, match=words):
        lineage.require_known(described, UNKNOWN, files, values)


def test_values_that_the_database_takes_for_null_are_a_warning_of_the_check(
    service: Taxonomy, tmp_path: Path
) -> None:
    """Else an installation that wants to go on is stopped, or goes on without anybody knowing."""
    config = write_database(tmp_path / "c", lineage_system="lineage", treatUnknownLineagesAsNull=True)
    with new_station(
        tmp_path, preprocessing_config=config, hierarchical_filters={"lineage": service.url}
    ) as place:
        release(place, ("9606", "x"), '"e1"')

        assert place.round().what == "imported"
        told = lineages_known(State(place.organism, place.index, place.served))

    assert told is not None
    assert "metadata.lineage ('x': 1) are unknown, and taken for null" in told


def test_a_service_that_drips_or_is_silent_is_given_up(
    service: Taxonomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one request holds an organism's lease for as long as the service likes."""
    monkeypatch.setattr(lineage, "LONGEST_SECONDS", 0.2)
    described, values = organism(service), {"host": {"9606": 1}}

    for drip_seconds in (0.05, 30.0):
        service.drip_seconds = drip_seconds
        with pytest.raises(SourceUnavailable, match="hierarchical filter host, 1 values: "):
            hierarchies(described, values, urllib3.PoolManager())


def test_an_answer_without_end_is_no_file(service: Taxonomy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a broken service fills the memory."""
    monkeypatch.setattr(lineage, "LARGEST_FILE_BYTES", 20)

    with pytest.raises(Incomplete, match="more than 20 bytes, no definition file"):
        hierarchies(organism(service), {"host": {"9606": 1}}, urllib3.PoolManager())


@pytest.fixture(scope="module")
def echo() -> Iterator[Taxonomy]:
    """A service that knows whatever it is asked for."""
    with taxonomy() as running:
        yield running


# What YAML can hold in JSON's quotes: no control characters, no line breaks of Unicode's own.
PLAIN = st.characters(exclude_categories=("Cc", "Cs", "Cn", "Zl", "Zp"))


@settings(max_examples=40)
@given(st.sets(st.text(PLAIN, min_size=1, max_size=8), min_size=1, max_size=5), st.booleans())
def test_whatever_the_values_are_the_answer_knows_them(
    echo: Taxonomy, values: set[str], as_json: bool
) -> None:
    """Else a host called "no" or "1.10", or with a quote in its name, blocks the organism."""
    known: dict[str, Any] = {value: {"parents": []} for value in values}
    text = json.dumps(known, ensure_ascii=False) if as_json else yaml.safe_dump(known)
    echo.says = lambda _path: (200, text.encode())

    (file,) = hierarchies(organism(echo), {"host": dict.fromkeys(values, 1)}, urllib3.PoolManager())

    assert echo.asked[-1][1] == {"values": sorted(values)}
    assert file.names == values
