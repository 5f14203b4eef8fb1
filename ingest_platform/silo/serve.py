"""The pair that the ledger names, in store and output folder: put, placed, fetched back, collected.

`uri`/`snapshot` holds body, index files and manifest. The output folder shows the same index to SILO's API.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ingest_platform.catalog.model import Claim
from ingest_platform.errors import IngestError, StoreUnavailable
from ingest_platform.silo.model import Organism
from ingest_platform.silo.rails import Rails
from ingest_platform.silo.read import Live
from ingest_platform.silo.served import Index, index_at, place, prune
from ingest_platform.storage.manifest import get_files, put_snapshot
from ingest_platform.storage.scratch import scratch_folder

BODY = "body.ndjson.zst"
INDEX = "index"  # folder of the index's files in a snapshot
# Beside the output folder's indexes, so that publishing is a rename on one disk; the API passes over it.
STAGING = ".importing"


def put_index(
    rails: Rails, claim: Claim, snapshot: str, index: Index, body: Path, about: Mapping[str, Any]
) -> None:
    """Body, index and manifest into the store, under a name that was never used. StoreUnavailable."""
    files = {
        f"{INDEX}/{path.relative_to(index.path)}": path for path in index.path.rglob("*") if path.is_file()
    }
    rails.at("before store")
    put_snapshot(rails.store, claim.uri, snapshot, {BODY: body, **files}, about)
    rails.store.sync()


def serve(rails: Rails, organism: Organism, index: Live, built: Index | None = None) -> None:
    """Show the index that the ledger names to SILO's API, and let old ones go. Done already is done.

    `built`: its files, if they are still here; else they are fetched from the store. Without a lease:
    numbers grow with commits, so a late one is never served over a newer. StoreUnavailable.
    """
    if not is_served(index, organism):
        if built is not None and built.timestamp == index.index_timestamp:
            place(built, organism.output, at=rails.at)
        else:
            with scratch_folder(organism.output / STAGING) as staging:
                place(_fetched(rails, index, staging.folder), organism.output, at=rails.at)
    prune(organism.output, keep=organism.keep, named=organism.output / str(index.index_timestamp))
    rails.at("after prune")


def is_served(index: Live, organism: Organism) -> bool:
    """Whether the output folder has it, whole."""
    return index_at(organism.output / str(index.index_timestamp)) is not None


def _fetched(rails: Rails, index: Live, staging: Path) -> Index:
    folder = staging / str(index.index_timestamp)
    try:
        get_files(rails.store, index.uri, index.snapshot, INDEX, folder)
    except OSError as error:
        raise StoreUnavailable(
            f"{folder}: the index cannot be fetched: {error}. The one served before stays. Make room there."
        ) from error
    found = index_at(folder)
    if found is None:
        raise StoreUnavailable(
            f"{index.uri}/{index.snapshot}: holds no finished index {index.index_timestamp}. The one served"
            " before stays. Run `ingest reconcile --apply`."
        )
    return found


def take_back(index: Index, organism: Organism) -> None:
    """An index that a runner wrote straight into the output folder, and that the ledger did not take."""
    if index.path.parent == organism.output:
        shutil.rmtree(index.path, ignore_errors=True)


def collect(rails: Rails, claim: Claim) -> tuple[str, ...]:
    """Delete the organism's snapshots that the ledger named before, and those of dead attempts.

    Under the lease. Their names begin with the token of their claim: one with a later token than ours was
    made by who took over from us, and stays. Returns what could not be deleted; the next import tries again.
    """
    if claim.snapshot is None:
        return ()
    try:
        for name in rails.store.names_below(claim.uri):
            token = name.partition("-")[0]
            if name != claim.snapshot and token.isdecimal() and int(token) < claim.token:
                rails.store.delete_below(claim.uri, name)
    except IngestError as error:
        return (f"old snapshots were left: {error}",)
    return ()
