"""A small Loculus backend for tests: generated records, real HTTP framing, and every damage we know by name.

Each `Case` is one answer to GET /get-released-data with the outcome that an import must have. SILO's own
three files for these records stand at the end.
"""

import gzip
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Literal

from backports.zstd import ZstdCompressor, compress

from ingest_platform_tests.loopback import serving

type Json = dict[str, Any]
Framing = Literal["chunked", "length", "close"]
Expect = Literal[
    "import",
    "import_empty",
    "import_with_warning",
    "import_empty_lineage",
    "dedupe_same_content",
    "import_or_dedupe",
    "reject",
    "reject_keep_previous",
    "reject_if_lineage_configured",
    "reject_or_decode",
    "warn_no_data",
]
REFERENCE = "ATCG" * 25
GAVE_UP = b"An unexpected error occurred while streaming, aborting the stream: Data corruption detected"


def record(
    number: int, *, pipeline_version: object = 1, lineage: str | None = "A.1", **extra: object
) -> Json:
    """A released record as the backend writes it."""
    accession = f"LOC_{number:06d}"
    return {
        "metadata": {
            "pipelineVersion": pipeline_version,
            "accession": accession,
            "accessionVersion": f"{accession}.1",
            "lineage": lineage,
            "note": random.Random(number).randbytes(40).hex(),
            **extra,
        },
        "unalignedNucleotideSequences": {"main": REFERENCE},
        "alignedNucleotideSequences": {"main": REFERENCE},
        "alignedAminoAcidSequences": {"gene1": "MYKW*"},
        "nucleotideInsertions": {"main": ["12:A"]},
        "aminoAcidInsertions": {"gene1": ["1:M"]},
    }


def line(record: Json) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


def stream(lines: Iterable[bytes]) -> bytes:
    """One zstd frame, flushed behind each record, as the backend sends it."""
    compressor = ZstdCompressor(level=3)
    flushed = [compressor.compress(each + b"\n", mode=ZstdCompressor.FLUSH_BLOCK) for each in lines]
    return b"".join([*flushed, compressor.flush()])


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server sends. `cut`: only so many bytes of the body, then the connection ends."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    framing: Framing = "chunked"
    cut: int | None = None
    drip_seconds: float = 0.0  # between single bytes


@dataclass(frozen=True, slots=True)
class Case:
    """One damaged or odd answer, and what an import must make of it."""

    name: str
    answer: Answer
    expect: Expect


def answer(records: Iterable[Json], etag: str = '"e1"', **changes: Any) -> Answer:
    """A sound answer with these records."""
    lines = [line(each) for each in records]
    headers = {
        "ETag": etag,
        "Content-Encoding": "zstd",
        "Content-Type": "application/x-ndjson",
        "x-total-records": str(len(lines)),
    }
    return replace(Answer(stream(lines), headers=headers), **changes)


def cases() -> tuple[Case, ...]:
    """The forty of the specification, with bodies of our own."""
    return (*_sound(), *_cut(), *_miscounted(), *_not_zstd(), *_poisoned(), *_odd_answers())


def case(name: str) -> Case:
    return next(each for each in cases() if each.name == name)


TWELVE = tuple(record(n) for n in range(12))
LINES = tuple(line(each) for each in TWELVE)
TEXT = b"".join(each + b"\n" for each in LINES)


def _case(
    name: str, expect: Expect, body: bytes | None = None, count: str | None = "12", **changes: Any
) -> Case:
    headers = {"ETag": f'"{name}"', "Content-Encoding": "zstd", "Content-Type": "application/x-ndjson"}
    if count is not None:
        headers["x-total-records"] = count
    headers |= changes.pop("headers", {})
    given = {name: value for name, value in headers.items() if value}
    return Case(name, Answer(stream(LINES) if body is None else body, headers=given, **changes), expect)


def _sound() -> Iterator[Case]:
    yield _case("ok", "import")
    yield _case("ok_other_level", "dedupe_same_content", compress(TEXT, level=19))
    yield _case("ok_two_frames", "dedupe_same_content", stream(LINES[:5]) + stream(LINES[5:]))
    yield _case("ok_reordered", "import_or_dedupe", stream(reversed(LINES)))
    yield _case("ok_more", "import", stream([*LINES, line(record(12))]), "13")
    yield _case("empty", "import_empty", compress(b""), "0")
    yield _case("weak_etag", "import", headers={"ETag": 'W/"abc"'})
    blank = TEXT.replace(b"\n", b"\n\n", 2)
    yield _case("blank_lines", "import", compress(blank))
    yield _case("no_trailing_newline", "import", compress(TEXT[:-1]))
    yield _case("u2028_in_string", "import", stream([line(record(1, note="a\u2028b"))]), "1")


def _cut() -> Iterator[Case]:
    whole = stream(LINES)
    half = len(whole) // 2
    cut: Expect = "reject_keep_previous"
    yield _case("empty_no_bytes", "reject", b"", "0")
    yield _case("cut_half_close_delimited", cut, framing="close", cut=half)
    yield _case("cut_content_length", cut, framing="length", cut=half)
    yield _case("cut_chunked", cut, framing="chunked", cut=half)
    compressor = ZstdCompressor(level=3)
    whole_records = [compressor.compress(each + b"\n", mode=ZstdCompressor.FLUSH_BLOCK) for each in LINES[:6]]
    yield _case("cut_at_record_boundary_no_count", cut, b"".join(whole_records), None, framing="close")
    yield _case("cut_last_3_bytes_all_records", cut, whole[:-3], framing="close")
    yield _case("trailing_garbage_after_frame", cut, whole + b"garbage")
    yield _case("server_error_text_tail", cut, stream([*LINES[:5], GAVE_UP]))
    yield _case("server_error_text_tail_no_count", cut, stream([*LINES[:5], GAVE_UP]), None)


def _miscounted() -> Iterator[Case]:
    yield _case("count_too_low", "reject_keep_previous", stream(LINES[:9]))
    yield _case("count_too_high", "reject_keep_previous", stream([*LINES, line(record(12))]))
    yield _case("count_header_garbage", "import_with_warning", count="twelve")


def _not_zstd() -> Iterator[Case]:
    yield _case("not_zstd", "reject_keep_previous", b"not-zstd", "1", framing="length")
    yield _case("plain_ndjson", "reject_keep_previous", TEXT)
    encodings = {"Content-Encoding": "zstd, gzip"}
    yield _case("gzip_over_zstd", "reject_or_decode", gzip.compress(stream(LINES)), headers=encodings)


def _poisoned() -> Iterator[Case]:
    bad: Expect = "reject_keep_previous"
    one = record(0)

    def poison(name: str, expect: Expect, *lines: bytes) -> Case:
        return _case(name, expect, stream(lines), str(len(lines)))

    def versions(*given: object) -> list[bytes]:
        return [line(record(n, pipeline_version=version)) for n, version in enumerate(given)]

    yield poison("mixed_pipeline_versions", "reject_if_lineage_configured", *versions(1, 2, 1))
    yield poison("pipeline_version_string", "import", *versions("1", 1))
    unversioned = record(0, lineage=None)
    del unversioned["metadata"]["pipelineVersion"]
    yield poison("pipeline_version_missing", "import_empty_lineage", line(unversioned))
    yield poison("pipeline_version_unknown", "reject_if_lineage_configured", *versions(99))
    yield poison("pipeline_version_garbage", bad, *versions("one"))
    yield poison("metadata_null", bad, line({**one, "metadata": None}))
    yield poison("record_not_object", bad, b'["a", "list"]')
    yield poison("duplicate_primary_key", bad, LINES[0], LINES[1], LINES[0])
    keys = {key: value for key, value in one.items() if key != "aminoAcidInsertions"}
    yield poison("missing_top_level_field", bad, line(keys))
    yield poison("invalid_utf8", bad, LINES[0].replace(b"LOC_", b"\xff\xfe"))
    yield poison("nan_literal", bad, line(record(0, depth=float("nan"))))


def _odd_answers() -> Iterator[Case]:
    yield _case("no_etag", "reject_keep_previous", headers={"ETag": ""})
    problem = {"Content-Encoding": "", "Content-Type": "application/problem+json"}
    yield _case(
        "status_500_json",
        "reject_keep_previous",
        b'{"title":"the database is away"}',
        None,
        status=500,
        framing="length",
        headers=problem,
    )
    yield _case("status_204_with_etag", "reject_keep_previous", b"", None, status=204, framing="length")
    yield _case("status_304_unasked", "warn_no_data", b"", None, status=304, framing="length")


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked."""

    path: str
    headers: Mapping[str, str]  # names in lower case


@dataclass
class Loculus:
    """The server, seen from the test. `rule` answers each request and may be changed at any time."""

    url: str = ""
    rule: Callable[[Request], Answer] = lambda _: Answer(status=503, framing="length")
    requests: list[Request] = field(default_factory=list)

    def always(self, answer: Answer) -> None:
        self.rule = lambda _: answer

    def release(self, answer: Answer) -> None:
        """Answer with this, or with 304 to who knows its ETag, as the real backend does."""
        etag = answer.headers["ETag"]
        unchanged = Answer(status=304, framing="length", headers={"ETag": etag})
        self.rule = lambda request: unchanged if request.headers.get("if-none-match") == etag else answer


@contextmanager
def loculus() -> Iterator[Loculus]:
    """A backend on a free port of loopback, stopped at exit."""
    state = Loculus()
    with serving(_handler(state)) as url:
        state.url = f"{url}/organism"
        yield state


def _handler(state: Loculus) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            request = Request(self.path, {name.lower(): value for name, value in self.headers.items()})
            state.requests.append(request)
            answer = state.rule(request)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.framing == "length" and answer.status not in (204, 304):
                self.send_header("Content-Length", str(len(answer.body)))
            if answer.framing == "chunked":
                self.send_header("Transfer-Encoding", "chunked")
            if answer.framing == "close" or answer.cut is not None:
                self.close_connection = True
            self.end_headers()
            self._send(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _send(self, answer: Answer) -> None:
            whole = answer.body if answer.cut is None else answer.body[: answer.cut]
            size = 1 if answer.drip_seconds else 997
            for at in range(0, len(whole), size):
                piece = whole[at : at + size]
                if answer.framing == "chunked":
                    piece = b"%x\r\n%b\r\n" % (len(piece), piece)
                self.wfile.write(piece)
                time.sleep(answer.drip_seconds)
            if answer.framing == "chunked" and answer.cut is None:
                self.wfile.write(b"0\r\n\r\n")

    return Handler


def write_database(folder: Path, *, lineage_system: str | bool | None = None, **lineage: object) -> Path:
    """SILO's files for the records above; the path of preprocessing_config.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    columns: list[Json] = [
        {"name": "pipelineVersion", "type": "int"},
        {"name": "accession", "type": "string"},
        {"name": "accessionVersion", "type": "string"},
        {"name": "lineage", "type": "string", "generateIndex": True},
        {"name": "note", "type": "string"},
    ]
    if lineage_system is not None:
        columns[3] |= {"generateLineageIndex": lineage_system, **lineage}
    schema = {"instanceName": "world", "metadata": columns, "primaryKey": "accessionVersion"}
    references = {
        "nucleotideSequences": [{"name": "main", "sequence": REFERENCE}],
        "genes": [{"name": "gene1", "sequence": "MYKW*"}],
    }
    (folder / "database_config.yaml").write_text(json.dumps({"schema": schema}))
    (folder / "reference_genomes.json").write_text(json.dumps(references))
    path = folder / "preprocessing_config.yaml"
    path.write_text(json.dumps({"ndjsonInputFilename": "data.ndjson.zst"}))
    return path
