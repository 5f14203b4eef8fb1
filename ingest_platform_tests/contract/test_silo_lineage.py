"""Lineage definitions from a real server: the file of the data's version, sound and knowing the data, or a
failure that names system, version and values.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import urllib3

from ingest_platform.errors import Damaged, Incomplete, SourceUnavailable, TransientError
from ingest_platform.silo.database import read_database
from ingest_platform.silo.lineage import LineageFile, definitions, names, require_known
from ingest_platform.silo.model import Organism
from ingest_platform_tests.silo_world import Answer, Loculus, loculus, write_database

FILE = b"A: {}\nA.1: {parents: [A], aliases: [B]}\nB.1: {parents: [B]}\n"


@pytest.fixture
def server() -> Iterator[Loculus]:
    with loculus() as running:
        running.always(Answer(FILE, framing="length"))
        yield running


def organism(server: Loculus, *versions: int, system: str = "pango") -> Organism:
    urls = {version: f"{server.url}/{version}.yaml" for version in versions}
    return Organism.model_validate(
        {
            "id": "virus",
            "backend_url": server.url,
            "lineage_definitions": {system: urls} if urls else {},
            "preprocessing_config": "unused",
            "output": "unused",
            "timeouts": {"connect_seconds": 2, "read_seconds": 2, "total_seconds": 5},
        }
    )


def fetched(server: Loculus, *versions: int, data: dict[int | None, int] | None = None) -> LineageFile:
    (file,) = definitions(organism(server, *versions), data or {1: 10}, urllib3.PoolManager())
    return file


def test_the_file_of_the_datas_version_is_taken(server: Loculus) -> None:
    """Else the lineages of another pipeline version describe the data."""
    file = fetched(server, 1, 2, data={None: 3, 2: 10})

    assert server.requests[0].path == "/organism/2.yaml"
    assert (file.version, file.file_name, file.content) == (2, "pango.yaml", FILE)
    assert file.names == {"A", "A.1", "B", "B.1"}


@pytest.mark.silo_case(21)
def test_another_content_under_the_same_url_is_another_definition(server: Loculus) -> None:
    """Else a corrected file is taken up with the next release only, or never."""
    before = fetched(server, 1)
    server.always(Answer(FILE + b"C: {}\n", framing="length"))

    assert fetched(server, 1).content_hash != before.content_hash


@pytest.mark.silo_case(23)
def test_several_versions_in_one_release_are_refused_with_their_counts(server: Loculus) -> None:
    """Else the first record's version decides for all others."""
    with pytest.raises(Damaged, match=r"virus: several pipeline versions .*1: 1,200 records, 2: 3 records"):
        fetched(server, 1, 2, data={1: 1200, 2: 3})


@pytest.mark.silo_case(23)
def test_without_any_version_the_definition_is_empty(server: Loculus) -> None:
    """Else an organism without a pipeline has no index."""
    file = fetched(server, 1, data={None: 3})

    assert (file.content, file.names, server.requests) == (b"{}\n", frozenset(), [])


def test_nothing_configured_needs_no_file(server: Loculus) -> None:
    """Else an organism without lineages asks for some."""
    assert definitions(organism(server), {1: 1, 2: 2}, urllib3.PoolManager()) == ()


@pytest.mark.silo_case(22)
def test_a_version_without_a_url_is_named_with_those_that_have_one(server: Loculus) -> None:
    """Else the operator looks for the reason in the data."""
    with pytest.raises(Incomplete, match=r"lineage system pango, pipeline version 9: no URL; .* for 1, 2"):
        fetched(server, 1, 2, data={9: 1})


@pytest.mark.silo_case(22)
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(b"gone", 404, framing="length"), "answered 404"),
        (Answer(b"a: [", framing="length"), "not YAML"),
        (Answer(b"", framing="length"), "expected a mapping"),
        (Answer(b"<html>Please log in</html>", framing="length"), "expected a mapping"),
        (Answer(b"A: {parents: [B]}\nB: {parents: [A]}", framing="length"), "a circle: A ← B ← A"),
        (Answer(b"A: {parents: [A]}", framing="length"), "a circle: A ← A"),
        (Answer(b"A: {parents: [X]}", framing="length"), "parent X of A is not defined"),
        (Answer(b"A: {}\nA: {}", framing="length"), "A is defined twice"),
        (Answer(b"A: {aliases: [B]}\nB: {}", framing="length"), "alias B of A already names another"),
        (Answer(b"A: {parent: [B]}\nB: {}", framing="length"), "parent is neither parents nor aliases"),
        (Answer(b"A: {parents: B}\nB: {}", framing="length"), "parents is no list"),
    ],
)
def test_a_file_that_is_missing_or_unsound_waits_for_a_better_one(
    answer: Answer, words: str, server: Loculus
) -> None:
    """Else the engine fails for an hour in words about something else, or the release is quarantined."""
    server.always(answer)

    with pytest.raises(
        Incomplete, match=f"(?s)pango, pipeline version 1.*{words}.*downloaded genomes are kept"
    ):
        fetched(server, 1)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"", 503, framing="length"),
        Answer(FILE, framing="length", cut=20),
        Answer(FILE, framing="chunked", cut=20),
    ],
)
def test_a_server_that_is_away_is_the_sources_fault(answer: Answer, server: Loculus) -> None:
    """Else half a file is a sound smaller one."""
    server.always(answer)

    with pytest.raises(SourceUnavailable, match="pango, pipeline version 1"):
        fetched(server, 1)


def test_names_are_texts_whatever_yaml_takes_them_for() -> None:
    """Else the lineage NO is false, and 1.10 is 1.1."""
    assert names(b"NO: {}\n1.10: {parents: [NO]}\n1.1: {aliases: [0x10]}\n~: {}\n", what="x") == {
        "NO",
        "1.10",
        "1.1",
        "0x10",
        "~",
    }


@pytest.mark.silo_case(22)
@pytest.mark.parametrize("system", ["pango", "pango.yaml", True])
def test_values_that_the_file_does_not_know_are_named_with_their_counts(
    system: str | bool, server: Loculus, tmp_path: Path
) -> None:
    """Else SILO fails the whole run, and names the first value only."""
    files = [fetched(server, 1)]
    database = read_database(write_database(tmp_path, lineage_system=system))
    words = r"pango, pipeline version 1: 2 values of metadata\.lineage \('Z': 7, 'Y': 2\) are not in http"

    assert require_known(organism(server, 1), database, files, {"lineage": {"A.1": 5, "B": 1}}) == ()
    with pytest.raises(Incomplete, match=words):
        require_known(organism(server, 1), database, files, {"lineage": {"A": 3, "Y": 2, "Z": 7}})


def test_values_that_the_database_takes_for_null_are_a_warning(server: Loculus, tmp_path: Path) -> None:
    """Else an installation that wants to go on is stopped, or goes on without anybody knowing."""
    config = write_database(tmp_path, lineage_system="pango", treatUnknownLineagesAsNull=True)

    warnings = require_known(
        organism(server, 1), read_database(config), [fetched(server, 1)], {"lineage": {"Z": 7}}
    )

    assert len(warnings) == 1
    assert "'Z': 7" in warnings[0]


@pytest.mark.parametrize("answer", [Answer(FILE), Answer(b"no", 404), Answer(b"", 503), Answer(b"- A", 200)])
def test_a_token_in_a_files_address_is_sent_and_not_shown(answer: Answer, server: Loculus) -> None:
    """Else the token of a private host is in the ledger, in Dagster and on the status page."""
    virus = organism(server, 1)
    urls = {"pango": {1: f"{server.url}/1.yaml?token=hunter2"}}
    virus = virus.model_copy(update={"lineage_definitions": urls})
    server.always(replace(answer, framing="length"))

    try:
        (file,) = definitions(virus, {1: 10}, urllib3.PoolManager())
        told = str(file.url)
    except TransientError as error:
        told = f"{error} {error.__cause__}"

    assert server.requests[0].path.endswith("1.yaml?token=hunter2")
    assert "/1.yaml?…" in told
    assert "hunter2" not in told


def test_a_token_is_not_shown_where_nobody_answers() -> None:
    """Else the very outage shows it: the connection's error names the whole address."""
    with loculus() as gone:
        pass
    virus = organism(gone, 1).model_copy(
        update={"lineage_definitions": {"pango": {1: f"{gone.url}/1.yaml?token=hunter2"}}}
    )

    with pytest.raises(SourceUnavailable, match=r"no answer from .*/1\.yaml\?…") as away:
        definitions(virus, {1: 10}, urllib3.PoolManager())

    assert "hunter2" not in str(away.value)
