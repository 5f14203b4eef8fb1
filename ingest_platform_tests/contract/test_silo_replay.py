"""Every damaged answer that we know by name, from a real HTTP server with its framing, through whole
imports: what is adopted and what is refused; and through their first half: in which words.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3
from backports import zstd

from ingest_platform.errors import Damaged, SourceUnavailable, StoreUnavailable
from ingest_platform.silo.backend import Backend
from ingest_platform.silo.model import Timeouts
from ingest_platform.silo.released import Layout, Released, keep, kept, receive
from ingest_platform_tests.silo_outcome import baseline_of, require_outcome
from ingest_platform_tests.silo_world import (
    LINES,
    Answer,
    Case,
    Loculus,
    answer,
    case,
    cases,
    loculus,
    record,
    stream,
)

TIMEOUTS = Timeouts(connect_seconds=2, read_seconds=2, total_seconds=10)


@dataclass(frozen=True)
class Importer:
    """The first half of an import, into a folder of its own each time."""

    server: Loculus
    folder: Path
    timeouts: Timeouts

    def run(self, answer: Answer, known: str | None = None) -> Released | None:
        """What is released, or None where the backend says 304."""
        self.server.always(answer)
        backend = Backend("organism", self.server.url, urllib3.PoolManager(), self.timeouts)
        with backend.released(known) as body:
            if body is None:
                return None
            pieces = keep(body.pieces, self.folder / "body.zst", name="organism")
            return receive(
                pieces, self.records, name="organism", announced=body.head.announced, layout=Layout()
            )

    @property
    def records(self) -> Path:
        return self.folder / "data.ndjson.zst"


@pytest.fixture
def importer(tmp_path: Path) -> Iterator[Importer]:
    with loculus() as server:
        yield Importer(server, tmp_path, TIMEOUTS)


@pytest.mark.silo_case(5)
@pytest.mark.silo_case(7)
@pytest.mark.silo_case(8)
@pytest.mark.silo_case(9)
@pytest.mark.silo_case(12)
@pytest.mark.silo_case(23)
@pytest.mark.silo_case(25)
@pytest.mark.parametrize("damaged", cases(), ids=lambda each: each.name)
def test_a_whole_import_has_the_outcome_that_is_proposed(damaged: Case, tmp_path: Path) -> None:
    """Else a damage that others have met in production reaches the index, or a sound release does not."""
    require_outcome(damaged, case(baseline_of(damaged.name, damaged.expect)).answer, tmp_path)


def test_there_are_forty_cases() -> None:
    """Else a case that was dropped passes for one that holds."""
    assert len({each.name for each in cases()}) == 40


@pytest.mark.silo_case(3)
@pytest.mark.parametrize("name", ["ok_other_level", "ok_two_frames", "blank_lines", "no_trailing_newline"])
def test_the_same_records_in_another_packing_are_the_same_content(name: str, importer: Importer) -> None:
    """Else each restart of the backend costs every organism a build."""
    first = importer.run(case("ok").answer)

    again = importer.run(case(name).answer)

    assert first is not None
    assert again is not None
    assert again.content_hash == first.content_hash


def test_reordered_records_are_new_content(importer: Importer) -> None:
    """Else the order in which SILO answers is that of a release long gone."""
    first = importer.run(case("ok").answer)

    other = importer.run(case("ok_reordered").answer)

    assert first is not None
    assert other is not None
    assert other.content_hash != first.content_hash


@pytest.mark.silo_case(6)
@pytest.mark.parametrize("name", ["server_error_text_tail", "server_error_text_tail_no_count"])
def test_the_servers_own_words_are_in_the_failure(name: str, importer: Importer) -> None:
    """Else the operator reads `invalid JSON` where the backend said what is wrong with it."""
    with pytest.raises(SourceUnavailable, match=r"record 6 at byte .*aborting the stream: Data corruption"):
        importer.run(case(name).answer)


@pytest.mark.silo_case(5)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cut_chunked", "broke off after"),
        ("cut_content_length", "broke off after"),
        ("cut_half_close_delimited", "ends after [0-9,]+ bytes, inside zstd frame 1"),
        ("cut_at_record_boundary_no_count", "inside zstd frame 1"),
        ("cut_last_3_bytes_all_records", "inside zstd frame 1"),
        ("trailing_garbage_after_frame", "b'garbage' follows the last frame"),
        ("duplicate_primary_key", "records 1 and 3 both have the accessionVersion 'LOC_000000.1'"),
        ("count_too_low", "12 records were announced .*, 9 came"),
        ("gzip_over_zstd", "a proxy must have added"),
        ("missing_top_level_field", "record 1 at byte 0 .* lacks aminoAcidInsertions"),
        ("status_500_json", "answered 500 .*the database is away"),
        ("status_304_unasked", "answered 304"),
        ("no_etag", "no ETag"),
    ],
)
def test_a_refusal_says_where_and_why(name: str, words: str, importer: Importer) -> None:
    """Else someone has to load 500 MB by hand to find the record that is wrong."""
    with pytest.raises((Damaged, SourceUnavailable), match=words):
        importer.run(case(name).answer)


@pytest.mark.silo_case(1)
def test_a_known_etag_is_sent_byte_for_byte_and_304_means_unchanged(importer: Importer) -> None:
    """Else each poll is a full download, or a weak ETag loses its W/ and never matches."""
    unchanged = Answer(status=304, framing="length")

    assert importer.run(unchanged, known='W/"abc"') is None

    assert importer.server.requests[0].headers["if-none-match"] == 'W/"abc"'
    assert importer.server.requests[0].path == "/organism/get-released-data?compression=zstd"


@pytest.mark.silo_case(4)
def test_a_backend_that_ignores_the_etag_is_noticed_from_the_head_alone(importer: Importer) -> None:
    """Else every poll loads everything for ever, and the log looks healthy."""
    importer.server.always(case("weak_etag").answer)
    backend = Backend("organism", importer.server.url, urllib3.PoolManager(), importer.timeouts)

    fresh, again = backend.changed(None), backend.changed('W/"abc"')

    assert fresh is not None
    assert again is not None
    assert (fresh.unheeded, again.unheeded) == (False, True)


@pytest.mark.silo_case(10)
@pytest.mark.parametrize("status", [204, 301, 302, 404, 429, 500, 503])
def test_any_other_status_is_the_sources_fault_and_is_tried_again(status: int, importer: Importer) -> None:
    """Else a 204 is an empty release, a redirect a login page, and an outage quarantines what is sound."""
    headers = {"ETag": '"e"', "Retry-After": "7", "Location": "http://elsewhere/login"}
    odd = Answer(b"sorry", status, headers, "length")

    with pytest.raises(SourceUnavailable, match=f"answered {status}") as refused:
        importer.run(odd, known='"e0"')

    assert refused.value.retry_after == 7
    assert len(importer.server.requests) == 1


@pytest.mark.silo_case(10)
@pytest.mark.parametrize("status", [304, 503])
def test_the_request_after_an_answer_without_a_body_is_answered_too(status: int, importer: Importer) -> None:
    """Else every second request fails while a backend is away, and the back-off grows for nothing."""
    backend = Backend("organism", importer.server.url, urllib3.PoolManager(), importer.timeouts)
    importer.server.always(Answer(b"", status, framing="length"))
    with suppress(SourceUnavailable):
        backend.changed('"e0"')
    importer.server.always(case("ok").answer)

    head = backend.changed('"e0"')

    assert head is not None
    assert head.etag == '"ok"'


@pytest.mark.silo_case(10)
def test_a_refused_connection_is_the_sources_fault(tmp_path: Path) -> None:
    """Else a restart of the backend ends the import for good."""
    with loculus() as gone:
        pass

    with pytest.raises(SourceUnavailable, match="no answer from http"):
        Importer(gone, tmp_path, TIMEOUTS).run(Answer())


@pytest.mark.silo_case(11)
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_a_stream_that_drips_is_given_up_at_the_total_deadline(framing: str, importer: Importer) -> None:
    """Else one byte every few minutes holds the organism's lease for ever."""
    seconds = iter(range(1000))
    importer.server.always(answer([record(1)], framing=framing, drip_seconds=0.005))
    ticking = Backend(
        "organism", importer.server.url, urllib3.PoolManager(), importer.timeouts, lambda: next(seconds)
    )

    with ticking.released(None) as body:
        assert body is not None
        with pytest.raises(SourceUnavailable, match="bytes came before the deadline"):
            list(body.pieces)


def test_a_kept_body_can_be_read_again_without_the_backend(importer: Importer, tmp_path: Path) -> None:
    """Else a broken lineage file costs the backend a full download at each try."""
    first = importer.run(case("ok").answer)

    again = receive(
        kept(tmp_path / "body.zst"), tmp_path / "again", name="organism", announced="12", layout=Layout()
    )

    assert again == first
    assert (tmp_path / "again").read_bytes() == importer.records.read_bytes()


@pytest.mark.silo_case(16)
@pytest.mark.parametrize("full", ["body", "records"])
def test_a_full_disk_is_our_fault_and_not_the_releases(full: str, importer: Importer, tmp_path: Path) -> None:
    """Else a release is quarantined because our disk was full, and never looked at again."""
    files = {"body": tmp_path / "body", "records": tmp_path / "records", full: Path("/dev/full")}

    body = keep([stream(LINES)], files["body"], name="organism")
    with pytest.raises(StoreUnavailable, match=r"full does not fit into .*No space left.*Make room"):
        receive(body, files["records"], name="organism", announced="12", layout=Layout())


def test_a_kept_body_that_is_gone_is_not_an_empty_one(tmp_path: Path) -> None:
    """Else a swept folder is a release without genomes."""
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        receive(kept(tmp_path / "gone"), tmp_path / "r", name="x", announced=None, layout=Layout())


def test_what_is_written_is_silos_shape(importer: Importer) -> None:
    """Else the engine misses columns, or answers with another sequence."""
    importer.run(answer([record(1, depth=0.1, tiny=5e-324, big=2**53 + 1)]))

    written = zstd.decompress(importer.records.read_bytes())

    assert written.endswith(b"\n")
    assert b'"main":{"sequence":"ATCG' in written
    assert b'"unaligned_main":"ATCG' in written
    assert b'"gene1":{"sequence":"MYKW*","insertions":["1:M"]}' in written
    assert b'"depth":0.1,"tiny":5e-324,"big":9007199254740993' in written
