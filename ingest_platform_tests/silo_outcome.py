"""What a whole import must make of each answer of the specification's matrix, generated or a real file."""

from contextlib import suppress
from pathlib import Path

from ingest_platform.errors import IngestError, SourceUnavailable
from ingest_platform.silo.ingest import Report
from ingest_platform_tests.silo_station import Station, new_station
from ingest_platform_tests.silo_world import Answer, Case, Expect, Request

LINEAGE_FILE = b"A: {}\nA.1: {parents: [A]}\n"
# Seen in the head of the answer already: a poll asks for no import.
NO_RELEASE = {"no_etag", "status_500_json", "status_204_with_etag"}
LOST_ROWS = "where the published index has"


def baseline_of(name: str, expect: Expect) -> str:
    """The case that is imported first: other content, unless it must be the same."""
    return "ok" if expect == "dedupe_same_content" or name == "ok_more" else "ok_more"


def require_outcome(case: Case, baseline: Answer, root: Path) -> None:
    """Import `baseline` in a new place below `root`, then `case`: as `case.expect` says, nothing else moves.

    However few rows are left: the limit for lost ones has tests of its own.
    """
    with new_station(root, row_drop_limit=1) as place:
        place.server.release(baseline)
        assert place.round().what == "imported"
        serve_with_lineages(place, case.answer)
        match case.expect:
            case "import" | "import_or_dedupe" | "import_with_warning" | "import_empty":
                require_imported(place, case)
            case "import_empty_lineage":
                configure_lineages(place)
                require_imported(place, case)
                assert place.engine.builds[-1]["system.yaml"] == b"{}\n"
            case "dedupe_same_content":
                require_same_index(place, case)
            case "reject_if_lineage_configured":
                configure_lineages(place)
                require_refused(place, case, "pipeline version")
                place.configure(lineage_definitions={})
                place.advance(hours=1)
                require_imported(place, case)
            case _:
                require_refused(place, case, "published index stays")


def serve_with_lineages(place: Station, answer: Answer) -> None:
    lineages = Answer(LINEAGE_FILE, framing="length")

    def rule(request: Request) -> Answer:
        return lineages if request.path.endswith(".yaml") else answer

    place.server.rule = rule


def configure_lineages(place: Station) -> None:
    place.configure(lineage_definitions={"system": {1: f"{place.server.url}/system.yaml"}})


def require_imported(place: Station, case: Case) -> None:
    builds = len(place.engine.builds)

    report = look(place, case)

    assert report.what == "imported", report.error
    assert len(place.engine.builds) == builds + 1
    assert place.index.etag == case.answer.headers["ETag"]
    assert place.served is not None
    assert place.served.timestamp == place.index.index_timestamp
    assert (place.index.rows == 0) == (case.expect == "import_empty")
    warnings = [warning for warning in report.warnings if LOST_ROWS not in warning]
    assert len(warnings) == (case.expect == "import_with_warning")


def require_same_index(place: Station, case: Case) -> None:
    before = place.output_tree()

    assert look(place, case).what == "unchanged"

    assert (place.output_tree(), len(place.engine.builds)) == (before, 1)
    assert place.index.etag == case.answer.headers["ETag"]


def require_refused(place: Station, case: Case, words: str) -> None:
    before, index = place.output_tree(), place.index

    report = look(place, case)

    assert report.what == "failed"
    assert isinstance(report.error, IngestError)
    assert words in str(report.error)
    assert (place.output_tree(), place.index) == (before, index)
    assert len(place.engine.builds) == 1
    assert list((place.root / "home" / "scratch").iterdir()) == []


def look(place: Station, case: Case) -> Report:
    """One round. What the poll's head makes no release of is met again by the hard refresh."""
    polled = None
    with suppress(SourceUnavailable):
        polled = place.poll()
    assert (polled is None) == (case.name in NO_RELEASE)
    report = place.ingest()
    if report.what != "nothing due":
        return report
    assert case.name in NO_RELEASE or case.name == "status_304_unasked"
    place.advance(hours=1)
    assert place.poll().what == "hard refresh"
    return place.ingest()
