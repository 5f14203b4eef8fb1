"""Retention deletes 100,000 grids within 60 s, in a folder and on S3.

`python -m benchmarks.purge [--grids 100000] [--partitions 40]`, with the tests' servers installed
(`python -m ingest_platform_tests.services install`). Per store three ways, each over a store and a ledger
filled anew:

- ours: `retention.purge`, ledger included (SQLite beside the folder, PostgreSQL beside S3);
- floor: the deletion alone, without a ledger: rmtree, or listing and DeleteObjects, one tree after another;
- peer: the seed's way, a request to delete and a row to delete for each grid, over a tenth of the grids;
  its figures are ten times what that took.

The trees are shaped as Icechunk's: one chunk of 10 kB a grid, a manifest and a snapshot for each 16 objects
of 86 grids. The S3 server's trees are laid as files into the folder that it serves: a PUT for each would take
longer than all the rest. CPU and memory are the purging process's own, not the servers'.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import obstore
from sqlalchemy import create_engine, text

from benchmarks.measure import Claim, Measured, measure, tell
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Artifact, Published, Sighting
from ingest_platform.operations.retention import Policy
from ingest_platform.operations.retention import purge as retention_purge
from ingest_platform.storage.credentials import Credentials
from ingest_platform.storage.store import Store, open_store

SOURCE = "weather.gfs"
START = datetime(2026, 1, 1, tzinfo=UTC)
GRIDS_PER_OBJECT = 86  # a GFS lead of the shipped selection
CHUNK_BYTES = 10_000
GOAL_SECONDS = 60
PEER_SHARE = 10


@dataclass(frozen=True, slots=True)
class Place:
    """Where a way of purging works: what its process needs to know."""

    catalog: str
    store: str
    endpoint: str | None
    key: str
    secret: str
    files: str  # the folder in which the store's trees lie, the S3 server's too

    def open(self) -> Store:
        return open_store(self.store, credentials=Credentials(self.key, self.secret), endpoint=self.endpoint)


@click.command()
@click.option("--grids", default=100_000, show_default=True)
@click.option("--partitions", default=40, show_default=True)
def main(grids: int, partitions: int) -> None:
    """Fill, measure, tell, store by store."""
    for name, places in (("a folder", _folders), ("S3", _servers)):
        with places() as fresh:
            found = _run("ours", fresh(), grids, partitions)
            floor = _run("floor", fresh(), grids, partitions)
            peer = _ten_times(_run("peer", fresh(), grids // PEER_SHARE, partitions))
        click.echo(f"floor on {name}: {floor}")
        tell(
            Claim(
                f"purge of {grids:,} grids in {name}; peer: the seed's way, grid by grid",
                ours=found,
                peer=peer,
                ratio=peer["wall_seconds"] / found.wall_seconds,
                goal=f"≤ {GOAL_SECONDS} s",
                holds=found.wall_seconds <= GOAL_SECONDS,
            )
        )


def _run(way: str, place: Place, grids: int, partitions: int) -> Measured:
    fill(place, grids, partitions)
    os.sync()  # else the disk is still busy with what was laid
    found = measure(f"benchmarks.purge:{way}", {"place": asdict(place)})
    left = sum(1 for path in Path(place.files).rglob("*") if path.is_file() and path.name != "ledger-id")
    if left:
        raise RuntimeError(f"{way}: {left:,} objects left in {place.store}")
    return found


def _ten_times(found: Measured) -> Mapping[str, float]:
    return {
        "wall_seconds": round(found.wall_seconds * PEER_SHARE, 1),
        "cpu_seconds": round(found.cpu_seconds * PEER_SHARE, 1),
        "peak_mib": round(found.peak_mib, 1),
    }


# The three ways. Each opens what it needs, then gives the work that is measured.


def ours(place: Mapping[str, str]) -> Callable[[], None]:
    """Retention as the schedule runs it."""
    where = Place(**place)
    catalog, store = Catalog.open(where.catalog), where.open()

    def work() -> None:
        policies = [Policy(SOURCE, timedelta(0), keep_latest=0)]
        done = retention_purge(catalog, store, policies, now=datetime.now(UTC), owner="bench")
        if done.error is not None:
            raise done.error

    return work


def floor(place: Mapping[str, str]) -> Callable[[], None]:
    """Nothing but the deletion."""
    store = Place(**place).open()

    def work() -> None:
        for uri in list(store.list_uris()):
            store.delete_tree(uri)

    return work


def peer(place: Mapping[str, str]) -> Callable[[], None]:
    """As the seed: for each grid its object, then its row, each in a request of its own."""
    where = Place(**place)
    objects = [path for path in _objects(where) if path != "ledger-id"]
    engine, store = create_engine(where.catalog), where.open()._open()

    def work() -> None:
        with engine.connect() as connection:
            ids = connection.execute(text("SELECT id FROM artifact ORDER BY id")).scalars().all()
            connection.rollback()
            for number, path in enumerate(objects):
                obstore.delete(store, path)
                if number < len(ids):
                    row = {"id": ids[number]}
                    connection.execute(text("DELETE FROM weather_grid WHERE artifact_id = :id"), row)
                    connection.execute(text("DELETE FROM artifact WHERE id = :id"), row)
                    connection.commit()

    return work


def _objects(place: Place) -> list[str]:
    root = Path(place.files)
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]


# A store and a ledger full of old grids.


def fill(place: Place, grids: int, partitions: int) -> None:
    """So many grids, all older than any retention, through the ledger's own verbs."""
    store, each = place.open(), grids // partitions
    with Catalog.open(place.catalog) as catalog:
        store.bind(catalog.ledger_id)
        for number in range(partitions):
            end = START + timedelta(hours=6 * number)
            uri = _ingest(catalog, f"{end:%Y-%m-%dT%H}", end, each)
            _lay_tree(Path(place.files) / uri, each)


def _ingest(catalog: Catalog, key: str, end: datetime, grids: int) -> str:
    leads = [f"{key}/f{lead:03}" for lead in range(-(-grids // GRIDS_PER_OBJECT))]
    catalog.see(SOURCE, [Sighting("noaa", lead, "e", 1, end, key, end, lead) for lead in leads])
    claim = catalog.claim(SOURCE, key, owner="bench")
    if claim is None:
        raise RuntimeError(f"{key}: nothing to claim")
    names = [f"{number:06}" for number in range(grids)]
    outcomes = [
        Published(item, tuple(_grid(name, end) for name in names[i * GRIDS_PER_OBJECT :][:GRIDS_PER_OBJECT]))
        for i, item in enumerate(claim.objects)
    ]
    catalog.commit(claim, "s", outcomes)
    return claim.uri


def _grid(name: str, moment: datetime) -> Artifact:
    box = {"west": 0.0, "south": -90.0, "east": 360.0, "north": 90.0}
    times = {"reference_time": moment, "valid_time": moment, "lead_seconds": 0}
    words = {"model": "gfs", "variable": "t", "parameter": "TMP", "level": "2 m", "window": "instant"}
    where = {"array": "/t", "time_index": 0, "level_index": None}
    return Artifact(name, CHUNK_BYTES, "crc32:00000000", "1", {**words, **times, **box, **where})


def _lay_tree(tree: Path, grids: int) -> None:
    body = b"\0" * CHUNK_BYTES
    batches = -(-grids // (16 * GRIDS_PER_OBJECT))
    for folder, number in (
        ("chunks", grids),
        ("manifests", batches),
        ("snapshots", batches),
        ("refs", batches),
    ):
        (tree / folder).mkdir(parents=True)
        for _ in range(number):
            (tree / folder / secrets.token_hex(10).upper()).write_bytes(body)


# Where: fresh places on real stores.


@contextmanager
def _folders() -> Iterator[Callable[[], Place]]:
    """SQLite and a folder."""
    root = Path(tempfile.mkdtemp(prefix="bench-purge-"))

    def fresh() -> Place:
        folder = root / secrets.token_hex(4)
        (folder / "data").mkdir(parents=True)
        catalog, data = f"sqlite:///{folder / 'catalog.db'}", folder / "data"
        return Place(catalog, data.as_uri(), None, "", "", str(data))

    try:
        yield fresh
    finally:
        shutil.rmtree(root)


@contextmanager
def _servers() -> Iterator[Callable[[], Place]]:
    """PostgreSQL and versitygw, whose bucket is a folder."""
    from ingest_platform_tests.services.postgres import fresh_database, start_postgres
    from ingest_platform_tests.services.processes import stop_all
    from ingest_platform_tests.services.s3 import start_s3

    root = Path(tempfile.mkdtemp(prefix="bench-purge-"))
    root.chmod(0o755)  # PostgreSQL's own user passes through
    try:
        server, url = start_s3(root), start_postgres(root)

        def fresh() -> Place:
            bucket = server.fresh_bucket()
            return Place(
                databases.enter_context(fresh_database(url)),
                f"s3://{bucket}/w",
                server.endpoint,
                server.access_key,
                server.secret_key,
                str(root / "s3" / bucket / "w"),
            )

        with ExitStack() as databases:
            yield fresh
    finally:
        stop_all(root)
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
