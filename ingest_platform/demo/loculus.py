"""A small Loculus backend: invented genomes of an invented virus, sent as the real one sends them.

One zstd frame flushed behind each record, in chunks, with ETag and x-total-records; 304 to who knows the
ETag; a lineage definition file beside it. For trying the platform offline.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import yaml
from backports.zstd import ZstdCompressor

ORGANISM = "demo-virus"
GENOMES = 500
# 400 codons: large enough that the index is about sequences, small enough that all are made in a blink.
CODONS = 400
COUNTRIES = ("Brazil", "Guinea", "Japan", "Norway", "Switzerland", "Vietnam")
# Lineage → its parents, as a definition file says it.
LINEAGES: Mapping[str, Sequence[str]] = {"A": [], "A.1": ["A"], "A.1.1": ["A.1"], "A.2": ["A"], "B": []}
FIRST_DAY = date(2026, 1, 1)
# The standard code, first, second and third letter in the order TCAG.
_AMINO_ACIDS = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
_CODE = {
    a + b + c: _AMINO_ACIDS[16 * i + 4 * j + k]
    for i, a in enumerate("TCAG")
    for j, b in enumerate("TCAG")
    for k, c in enumerate("TCAG")
}

type Json = dict[str, Any]


def records(count: int = GENOMES) -> Iterator[Json]:
    """Released records in the backend's shape and order; the same number gives the same records."""
    source = random.Random(count)  # noqa: S311 - invented data, the same each time
    original = reference()
    founders = {name: _mutated(original, source, 6) for name in LINEAGES}
    for number in range(count):
        lineage = source.choice(sorted(LINEAGES))
        genome = _mutated(founders[lineage], source, 3)
        accession = f"DEMO_{number:06d}"
        day = FIRST_DAY + timedelta(days=source.randrange(300))
        yield {
            "metadata": {
                "accession": accession,
                "accessionVersion": f"{accession}.1",
                "pipelineVersion": 1,
                "lineage": lineage,
                "country": source.choice(COUNTRIES),
                "sampleCollectionDate": day.isoformat(),
                "length": len(genome),
            },
            "unalignedNucleotideSequences": {"main": genome},
            "alignedNucleotideSequences": {"main": genome},
            "nucleotideInsertions": {"main": []},
            "alignedAminoAcidSequences": {"ORF1": translated(genome)},
            "aminoAcidInsertions": {"ORF1": []},
        }


def reference() -> str:
    """The reference genome: one open reading frame."""
    source = random.Random("reference")  # noqa: S311 - invented data, the same each time
    sense = sorted(codon for codon, amino_acid in _CODE.items() if amino_acid != "*")
    return "ATG" + "".join(source.choice(sense) for _ in range(CODONS - 2)) + "TAA"


def translated(genome: str) -> str:
    return "".join(_CODE[genome[at : at + 3]] for at in range(0, len(genome), 3))


def _mutated(genome: str, source: random.Random, times: int) -> str:
    letters = list(genome)
    for _ in range(times):
        letters[source.randrange(len(letters))] = source.choice("ACGT")
    return "".join(letters)


def body(lines: Sequence[bytes]) -> bytes:
    """One zstd frame, flushed behind each record, as the backend sends it."""
    compressor = ZstdCompressor(level=3)
    flushed = [compressor.compress(line + b"\n", mode=ZstdCompressor.FLUSH_BLOCK) for line in lines]
    return b"".join([*flushed, compressor.flush()])


def write_database(folder: Path) -> Path:
    """SILO's own three files for these records; the path of preprocessing_config.yaml."""
    folder.mkdir(parents=True)
    schema = {
        "instanceName": ORGANISM,
        "primaryKey": "accessionVersion",
        "metadata": [
            {"name": "accession", "type": "string"},
            {"name": "accessionVersion", "type": "string"},
            {"name": "pipelineVersion", "type": "int"},
            {"name": "lineage", "type": "string", "generateIndex": True, "generateLineageIndex": "lineages"},
            {"name": "country", "type": "string", "generateIndex": True},
            {"name": "sampleCollectionDate", "type": "date"},
            {"name": "length", "type": "int"},
        ],
    }
    genome = reference()
    references = {
        "nucleotideSequences": [{"name": "main", "sequence": genome}],
        "genes": [{"name": "ORF1", "sequence": translated(genome)}],
    }
    (folder / "database_config.yaml").write_text(yaml.safe_dump({"schema": schema}, sort_keys=False))
    (folder / "reference_genomes.json").write_text(json.dumps(references))
    config = folder / "preprocessing_config.yaml"
    config.write_text("ndjsonInputFilename: data.ndjson.zst\nlineageDefinitionFilenames: [lineages.yaml]\n")
    return config


@contextmanager
def serving(released: Sequence[Json]) -> Iterator[str]:
    """The backend on a free port of loopback while the block lasts; yields http://127.0.0.1:<port>."""
    server = _Server(("127.0.0.1", 0), _handler([orjson.dumps(each) for each in released]))
    thread = threading.Thread(target=server.serve_forever, name="loculus", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A poll hangs up behind the head; anything else is an error of ours."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _handler(lines: Sequence[bytes]) -> type[BaseHTTPRequestHandler]:
    sent = body(lines)
    # The real one is the time of the last write and the day; this data never changes.
    etag = f'"{hashlib.sha256(sent).hexdigest()[:16]}|{FIRST_DAY}"'
    definitions = yaml.safe_dump({name: {"parents": list(above)} for name, above in LINEAGES.items()})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/lineages.yaml":
                self._small(200, definitions.encode())
            elif not self.path.startswith(f"/{ORGANISM}/get-released-data"):
                self._small(404, b"there is only one organism here\n")
            elif self.headers.get("If-None-Match") == etag:
                self.send_response(304)
                self.send_header("ETag", etag)
                self.end_headers()
            else:
                self._release()

        def log_message(self, format: str, *args: object) -> None:
            """The demo's console is for the demo."""

        def _small(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _release(self) -> None:
            self.send_response(200)
            self.send_header("ETag", etag)
            self.send_header("Content-Type", "application/x-ndjson")
            self.send_header("Content-Encoding", "zstd")
            self.send_header("x-total-records", str(len(lines)))
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for at in range(0, len(sent), 4096):
                piece = sent[at : at + 4096]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

    return Handler
