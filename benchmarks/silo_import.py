"""The import of 20,000 genomes, from the poll of a backend to the served index, with the rhydb engine.

The real Ebola dump again and again under new accessions, where INGEST_REAL_DATA names a folder with it; else
invented genomes. A local server sends it as a backend does: one zstd frame, flushed behind each record, in
chunks.

- ours: poll, download, check, transform, build, store, ledger commit, publish, on an empty ledger and folder;
- floor: the engine alone, on inputs that lie ready on disk;
- peer: a straightforward importer: the body into memory, inflated whole, json.loads a line, the transformed
  lines into a file, the engine on it. It checks nothing but the number of records.

The quotients are of CPU seconds: a busy neighbour moves wall times by a half, and all three are one thread's
work for nearly all of their time.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import click
import orjson
import yaml
from backports import zstd

from benchmarks.measure import Claim, Measured, in_turn, tell
from ingest_platform.demo import loculus
from ingest_platform.silo.released import kept, receive

GENOMES = 20_000
REPETITIONS = 3
FLOOR_FACTOR, OWN_PEAK_MIB = 1.5, 300.0
SENT_PIECE_BYTES = 1 << 16


def main() -> None:
    """Make the stream, serve it, run all three in turn, and say what holds."""
    folder = Path(tempfile.mkdtemp(prefix="ingest-bench-"))
    try:
        click.echo(make_stream(folder))
        with serving(folder / "body.zst") as url:
            os.sync()
            given = {"url": url, "folder": str(folder)}
            ours, floor, peer = in_turn(
                [f"benchmarks.silo_import:{name}" for name in ("ours", "floor", "peer")],
                given,
                repeat=REPETITIONS,
            )
        _tell_ratios(ours, floor, peer)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tell_ratios(ours: Measured, floor: Measured, peer: Measured) -> None:
    slower, faster = ours.wall_seconds / floor.wall_seconds, peer.wall_seconds / ours.wall_seconds
    click.echo(f"wall: ours takes {slower:.2f} × the engine alone, the peer {faster:.2f} × ours")
    name = f"import of {GENOMES:,} genomes"
    over, cheaper = ours.cpu_seconds / floor.cpu_seconds, peer.cpu_seconds / ours.cpu_seconds
    tell(Claim(f"{name}, against the engine alone, CPU", ours, floor, over, "≤ 1.5 ×", over <= FLOOR_FACTOR))
    tell(
        Claim(f"{name}, against a straightforward importer, CPU", ours, peer, cheaper, "≥ 1 ×", cheaper >= 1)
    )
    own = max(sample.result["own_peak_mib"] for sample in ours.samples)
    figures = {"beside_the_engine_mib": round(own), "with_it_mib": round(ours.peak_mib)}
    tell(
        Claim(
            f"{name}, peak memory beside the engine's",
            figures,
            {"with_it_mib": round(peer.peak_mib)},
            None,
            "≤ 300 MiB",
            own <= OWN_PEAK_MIB,
        )
    )


def make_stream(folder: Path) -> str:
    """body.zst as the backend sends it, SILO's files in config/, and the engine's records in records.zst."""
    from ingest_platform.silo.database import read_database

    real = Path(os.environ.get("INGEST_REAL_DATA", "")) / "silo" / "ebola"
    lines: Iterator[bytes]
    if real.exists():
        shutil.copytree(real, folder / "config", ignore=shutil.ignore_patterns("data.*"))
        lines = islice(_repeated(real / "data.ndjson.zst"), GENOMES)
    else:
        loculus.write_database(folder / "config")
        _forget_lineages(folder / "config")
        lines = (orjson.dumps(each) for each in loculus.records(GENOMES))
    compressor = zstd.ZstdCompressor(level=3)
    with (folder / "body.zst").open("wb") as file:
        for line in lines:
            file.write(compressor.compress(line + b"\n", mode=zstd.ZstdCompressor.FLUSH_BLOCK))
        file.write(compressor.flush())
    released = receive(
        kept(folder / "body.zst"),
        folder / "records.zst",
        name="bench",
        announced=str(GENOMES),
        layout=read_database(folder / "config" / "preprocessing_config.yaml").layout,
    )
    kind = "the Ebola dump repeated" if real.exists() else "invented"
    return (
        f"{released.rows:,} genomes, {kind}: {released.body_bytes / 1e6:.1f} MB sent,"
        f" {released.content_bytes / 1e6:.0f} MB decompressed"
    )


def _repeated(dump: Path) -> Iterator[bytes]:
    """The dump's records without end, each time under new accessions."""
    with zstd.open(dump, "rb") as file:
        records = [orjson.loads(line) for line in file]
    time = 0
    while True:
        for record in records:
            metadata = record["metadata"]
            accession = f"{metadata['accession'].partition('-')[0]}-{time}"
            changed = {"accession": accession, "accessionVersion": f"{accession}.{metadata['version']}"}
            yield orjson.dumps(record | {"metadata": metadata | changed})
        time += 1


def _forget_lineages(config: Path) -> None:
    """The demo's database without its lineage index: no file is served here."""
    path = config / "database_config.yaml"
    given = yaml.safe_load(path.read_text())
    for column in given["schema"]["metadata"]:
        column.pop("generateLineageIndex", None)
    path.write_text(yaml.safe_dump(given))
    (config / "preprocessing_config.yaml").write_text("ndjsonInputFilename: data.ndjson.zst\n")


@contextmanager
def serving(body: Path) -> Iterator[str]:
    """The body under every path, from a thread of this process, whose CPU nobody counts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("ETag", '"bench"')
            self.send_header("Content-Encoding", "zstd")
            self.send_header("x-total-records", str(GENOMES))
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                with body.open("rb") as file:
                    while piece := file.read(SENT_PIECE_BYTES):
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                self.wfile.write(b"0\r\n\r\n")
            except ConnectionError:  # a poll hangs up behind the head
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/bench"
    finally:
        server.shutdown()
        server.server_close()


def ours(url: str, folder: str) -> Callable[[], dict[str, Any]]:
    """The platform's own path, as a Dagster run or `silo-import --once` takes it."""
    from ingest_platform.settings import Settings
    from ingest_platform.silo.discover import poll
    from ingest_platform.silo.feed import open_rails
    from ingest_platform.silo.ingest import import_organism
    from ingest_platform.silo.model import Organism

    home = Path(folder) / f"ours-{secrets.token_hex(4)}"
    settings = Settings.from_environment({"INGEST_HOME": str(home)})
    organism = Organism(
        id="bench",
        backend_url=url,
        preprocessing_config=Path(folder) / "config" / "preprocessing_config.yaml",
        output=home / "output",
    )

    with open_rails(settings):
        pass  # a ledger is made once an installation, which costs half a second

    def work() -> dict[str, Any]:
        with open_rails(settings) as rails:
            poll(rails, organism)
            report = import_organism(rails, organism, owner="bench")
        if report.index is None or report.index.rows != GENOMES or report.error:
            raise RuntimeError(f"{report.what}: {report.error}")
        return {"engine_seconds": report.engine_seconds, "own_peak_mib": _own_peak_mib()}

    return work


def floor(url: str, folder: str) -> Callable[[], dict[str, Any]]:  # noqa: ARG001 - all three are called alike
    """The engine alone; its inputs are laid out before."""
    from ingest_platform.silo.database import read_database
    from ingest_platform.silo.engines.rhydb import RhydbEngine
    from ingest_platform.silo.inputs import lay_out

    place = Path(folder) / f"floor-{secrets.token_hex(4)}"
    (place / "staging").mkdir(parents=True)
    database = read_database(Path(folder) / "config" / "preprocessing_config.yaml")
    records = Path(folder) / "records.zst"
    inputs = lay_out(place / "inputs", database, records, GENOMES, (), staging=place / "staging")

    def work() -> dict[str, Any]:
        built = RhydbEngine(os.environ).build(inputs, place / "staging", timeout_seconds=600)
        return {"index_bytes": built.index.size_bytes}

    return work


def peer(url: str, folder: str) -> Callable[[], dict[str, Any]]:
    """What one writes in an afternoon."""
    import rhydb
    import urllib3

    from ingest_platform.silo.database import read_database
    from ingest_platform.silo.engines.rhydb import create_table

    place = Path(folder) / f"peer-{secrets.token_hex(4)}"
    place.mkdir()
    layout = read_database(Path(folder) / "config" / "preprocessing_config.yaml")

    def work() -> dict[str, Any]:
        response = urllib3.request("GET", f"{url}/get-released-data", decode_content=False)
        text = zstd.decompress(response.data)
        lines = text.splitlines()
        if len(lines) != int(response.headers["x-total-records"]):
            raise RuntimeError(f"{len(lines)} records came")
        with (place / "data.ndjson").open("w") as file:
            for line in lines:
                file.write(json.dumps(_flat(json.loads(line))) + "\n")
        database = rhydb.Database()
        for kind, found in (("nucleotide", layout.segments), ("amino_acid", layout.genes)):
            for each in found:
                known = {"name": each.name, "type": kind, "sequence": each.sequence}
                database.append_data_from_string("reference_genomes", json.dumps(known))
        database.query(create_table(layout))
        database.append_data_from_file("default", str(place / "data.ndjson"))
        (place / "output").mkdir()
        database.save_checkpoint(str(place / "output"))
        return {"own_peak_mib": _own_peak_mib()}

    return work


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    flat = dict(record["metadata"])
    for name, letters in record["unalignedNucleotideSequences"].items():
        flat[f"unaligned_{name}"] = letters
    for kind, inserted in (
        ("alignedNucleotideSequences", "nucleotideInsertions"),
        ("alignedAminoAcidSequences", "aminoAcidInsertions"),
    ):
        for name, letters in record[kind].items():
            found = {"sequence": letters, "insertions": record[inserted].get(name) or []}
            flat[name] = None if letters is None else found
    return flat


def _own_peak_mib() -> float:
    """Of this process alone, without the engine's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
