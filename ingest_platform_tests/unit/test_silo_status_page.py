"""The organisms on the status page: what it must say of each, and that what strangers wrote stays text."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ingest_platform.errors import SourceUnavailable
from ingest_platform.operations.page import page
from ingest_platform_tests.silo_station import Station, new_station
from ingest_platform_tests.silo_world import TWELVE, Answer, answer

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Station]:
    with new_station(tmp_path, id="ebola-zaire") as made:
        yield made


@pytest.fixture
def imported(place: Station) -> Station:
    """Twelve records, looked at ten minutes ago."""
    place.import_twelve()
    return place


def shown(place: Station, dagster_url: str | None = "http://dagster:3000/") -> str:
    return page(place.catalog, [], [place.organism], now=place.at, dagster_url=dagster_url)


def facts(text: str) -> dict[str, str]:
    """Each term of the organism's card with what stands beside it."""
    card = text.partition('id="genome-ebola-zaire"')[2].partition("</section>")[0]
    pairs = re.findall(r"<dt>(.+?)</dt><dd.*?>(.+?)</dd>", card)
    return {term: " ".join(re.sub(r"<.+?>", " ", found).split()) for term, found in pairs}


def test_without_organisms_the_page_speaks_of_none(imported: Station) -> None:
    """Who has weather alone must not wonder what is missing."""
    text = page(imported.catalog, [], now=imported.at)

    assert "Genomes" not in text
    assert "organisms" not in text


def test_the_page_says_how_an_organism_is(imported: Station) -> None:
    """It is the one place that a person opens in the morning."""
    text = shown(imported)

    assert facts(text) == {
        "Last import": "10 min ago 2026-11-21 12:00:01Z",
        "Confirmed": "10 min ago at most 2 h while all is well",
        "Next look at everything": facts(text)["Next look at everything"],
        "Last poll": "10 min ago answered",
        "Queue": "0 due 0 wait for another try",
        "Quarantine": "0",
        "Rows": f"12 {imported.index.index_bytes} B of index",
        "Pipeline version": "1",
        "Index": f"{imported.index.index_timestamp} built 2026-11-21 12:00:01Z in 0.0 s",
        "Engine": "scripted 1",
        "ETag": "&#34;e1&#34;",
    }
    assert re.match(r"in (3[5-9]|4\d) min", facts(text)["Next look at everything"])
    assert "1 of 1 organisms as they should be" in text
    assert (
        'href="http://dagster:3000/assets/silo/silo_index?view=partitions&amp;partition=ebola-zaire"' in text
    )


def test_an_organism_that_was_never_looked_at_says_so(place: Station) -> None:
    """The first look after the installation is at this page."""
    text = shown(place)

    assert "nothing was imported yet" in text
    assert facts(text)["Last import"] == facts(text)["Last poll"] == "never"
    assert "Rows" not in facts(text)
    assert "0 of 1 organisms" in text


@pytest.mark.parametrize(
    ("age", "told"),
    [
        (timedelta(hours=2), "as it should be"),
        (timedelta(hours=2, seconds=1), "not confirmed for more than 2 h"),
    ],
)
def test_an_organism_that_nobody_looks_at_says_so(imported: Station, age: timedelta, told: str) -> None:
    """A sensor that is off makes no errors."""
    imported.at = imported.index.refreshed_at + age

    text = shown(imported)

    assert told in text
    assert facts(text)["Next look at everything"].startswith("due")


def test_a_release_that_was_given_up_shows_its_reason_and_the_exact_command(imported: Station) -> None:
    """Else an operator must read the source to give it another try."""
    imported.server.release(answer(TWELVE[:1], '"few"'))
    imported.round()

    text = shown(imported)

    assert "a release was given up" in text
    assert facts(text)["Quarantine"] == "1 reasons and retry"
    assert (
        "<strong>ebola-zaire</strong> · try again: <code>ingest requeue --models ebola-zaire</code>" in text
    )
    assert "more than 50% are gone" in text
    assert "import once with --accept-row-drop" in text


def test_what_waits_after_an_error_says_why_and_how_long(imported: Station) -> None:
    """Else nobody knows whether to wait or to act."""
    imported.server.release(answer(TWELVE[:11], '"e2"'))
    imported.engine.failures = [OSError(28, "No space left on device")]
    imported.round()

    text = shown(imported)

    assert "again in 30 s" in text
    assert "No space left on device" in text
    assert facts(text)["Queue"] == "0 due 1 wait for another try"
    assert "Nothing was given up." in text


def test_polls_that_fail_or_are_not_heeded_show(place: Station) -> None:
    """Neither leaves an error in the queue."""
    place.server.always(answer(TWELVE, '"e1"'))
    place.round()
    place.poll()
    ignored = facts(shown(place))["Last poll"]
    place.server.always(Answer(status=503, framing="length"))
    with pytest.raises(SourceUnavailable):
        place.poll()

    assert ignored == "0 s ago 1 in a row did not heed our ETag"
    assert facts(shown(place))["Last poll"] == "0 s ago 1 failed in a row"


def test_several_pipeline_versions_are_named_with_their_records(imported: Station) -> None:
    """A reprocessing that is under way explains a great deal."""
    records = [*TWELVE[:8]]
    mixed = [{**r, "metadata": {**r["metadata"], "pipelineVersion": 2}} for r in TWELVE[8:]]
    imported.server.release(answer([*records, *mixed], '"e2"'))

    imported.round()

    assert facts(shown(imported))["Pipeline version"] == "1: 8, 2: 4"


def test_no_purge_is_missed_where_none_is_due(imported: Station) -> None:
    """An organism never ends: a warning that it was not purged would stay for ever."""
    imported.advance(days=30)

    assert "not purged within a day" not in shown(imported)


def test_what_a_stranger_wrote_stays_text(place: Station) -> None:
    """ETags, log lines and error texts come from outside; a browser must show them, not run them."""
    place.engine.version = HOSTILE
    place.server.release(answer(TWELVE, f'"{HOSTILE}"'))
    place.round()
    place.server.release(answer(TWELVE[:11], '"e2"'))
    place.engine.failures = [OSError(HOSTILE)]
    place.round()

    text = shown(place)

    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3
    assert "<script" not in text
    assert "<img" not in text


def test_the_page_needs_no_output_folder(imported: Station) -> None:
    """It is served where the ledger is, and the folder may be on another machine."""
    elsewhere = replace_output(imported, Path("/nowhere"))

    assert facts(shown(elsewhere))["Rows"].startswith("12")


def replace_output(place: Station, output: Path) -> Station:
    return replace(place, organism=place.organism.model_copy(update={"output": output}))
