"""The pair that the ledger names, in store and output folder: put, placed, fetched back, collected.

`uri`/`snapshot` holds body, index files and manifest. The output folder shows the same index to SILO's API.
"""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from ingest_platform.catalog.model import Claim
from ingest_platform.errors import IngestError, StoreUnavailable
from ingest_platform.silo.model import Organism
from ingest_platform.silo.rails import Rails
from ingest_platform.silo.read import SOURCE, Live
from ingest_platform.silo.served import Index, index_at, indexes, number, place, prune, renumbered
from ingest_platform.storage.manifest import get_files, put_snapshot
from ingest_platform.storage.scratch import scratch_folder

BODY = "body.ndjson.zst"
INDEX = "index"  # folder of the index's files in a snapshot
# Beside the output folder's indexes, so that publishing is a rename on one disk; the API passes over it.
STAGING = ".importing"
# An index that could not be restored is as large as ever: not fetched at each poll, but 12 times an hour.
RESTORE_AGAIN = timedelta(minutes=5)


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


def serve(rails: Rails, organism: Organism, index: Live, built: Index | None = None) -> tuple[str, ...]:
    """Show the index that the ledger names to SILO's API, and let old ones go. Done already is done.

    `built`: its files, if they are still here; else they are fetched from the store. Without a lease:
    numbers grow with commits, so a late one is never served over a newer. Returns what could not be
    removed. StoreUnavailable; then `held_off` for a while.
    """
    try:
        _place(rails, organism, index, built)
    except (IngestError, OSError) as error:
        _hold_off(rails, organism)
        if isinstance(error, IngestError):
            raise
        raise _unusable(organism, error) from error
    with suppress(OSError):
        _held_off(rails, organism).unlink(missing_ok=True)
    left = prune(organism.output, keep=organism.keep, named=organism.output / str(index.index_timestamp))
    rails.at("after prune")
    return left


def standing(index: Live, organism: Organism) -> Literal["served", "missing", "hidden"]:
    """Whether SILO's API finds the index that the ledger names. StoreUnavailable: it cannot be looked at.

    served: it is the newest finished one, and as large as the ledger says. missing: it is not there and
    nothing larger is; `serve` brings it back. hidden: the API goes on with a larger number, or something
    else has its number, or a file of it was torn: the next import gives it a number of its own.
    """
    target = organism.output / str(index.index_timestamp)
    try:
        found = indexes(organism.output)
        if found and found[-1].timestamp > index.index_timestamp:
            return "hidden"
        if found and found[-1].path == target and found[-1].size_bytes == index.index_bytes:
            return "served"
        return "hidden" if os.path.lexists(target) else "missing"
    except OSError as error:
        raise _unusable(organism, error) from error


def held_off(rails: Rails, organism: Organism) -> bool:
    """Whether the last try to restore a missing index failed a moment ago, in whichever process."""
    try:
        tried = datetime.fromtimestamp(_held_off(rails, organism).stat().st_mtime, UTC)
    except FileNotFoundError:
        return False
    # One in the future was noted before the clock went back: it counts for nothing.
    return timedelta(0) <= rails.clock() - tried < RESTORE_AGAIN


def _hold_off(rails: Rails, organism: Organism) -> None:
    mark, now = _held_off(rails, organism), rails.clock().timestamp()
    with suppress(OSError):  # without a note it is tried again at once
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        os.utime(mark, (now, now))


def _held_off(rails: Rails, organism: Organism) -> Path:
    # Not in the output folder, which may be the one that takes no file. No organism's name begins so.
    return rails.kept / f".unserved-{organism.id}"


def _unusable(organism: Organism, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(
        f"{organism.output}: the output folder of {organism.id} cannot be used: {error}. What SILO's API has"
        " loaded stays. Is its disk mounted and whole, and may this user read and write there?"
    )


def _place(rails: Rails, organism: Organism, index: Live, built: Index | None) -> None:
    if built is not None and built.timestamp == index.index_timestamp:
        place(built, organism.output, at=rails.at)
        return
    there = index_at(organism.output / str(index.index_timestamp))
    if there is not None and there.size_bytes == index.index_bytes:
        return
    with scratch_folder(organism.output / STAGING) as staging:
        fetched = fetch(rails, index, staging.folder, index.index_timestamp)
        place(fetched, organism.output, at=rails.at)


def fetch(rails: Rails, index: Live, staging: Path, timestamp: int) -> Index:
    """The published index from the store, laid into `staging` under this number. StoreUnavailable."""
    folder = staging / "fetched"
    try:
        get_files(rails.store, index.uri, index.snapshot, INDEX, folder)
        # Its files carry the number that it was built with, and the ledger may have given it a larger one.
        found = renumbered(folder, timestamp)
    except OSError as error:
        raise StoreUnavailable(
            f"{folder}: the index cannot be fetched: {error}. The one served before stays. Make room there."
        ) from error
    if found is None:
        raise StoreUnavailable(
            f"{index.uri}/{index.snapshot}: holds no finished index {timestamp}. The one served before stays."
            " Run `ingest reconcile --apply`."
        )
    return found


def fetch_above(rails: Rails, organism: Organism, index: Live, staging: Path) -> Index:
    """The published index as the one that SILO's API takes next, not yet placed. As fetch."""
    fetched = fetch(rails, index, staging, index.index_timestamp)
    return number(fetched, organism.output, above=index.index_timestamp)


def take_back(index: Index, organism: Organism) -> None:
    """An index that a runner wrote straight into the output folder, and that the ledger did not take."""
    if index.path.parent == organism.output:
        shutil.rmtree(index.path, ignore_errors=True)


def discard(rails: Rails, claim: Claim, snapshot: str) -> tuple[str, ...]:
    """Delete what this attempt has written, if its commit was not even tried: nobody can name it.

    Else a disk that is full is kept full by the attempts that fail for it. Returns what could not be
    deleted; `collect` tries again.
    """
    try:
        rails.store.delete_below(claim.uri, snapshot)
    except IngestError as error:
        return (f"a failed attempt's files were left: {error}",)
    return ()


def collect(rails: Rails, claim: Claim) -> tuple[str, ...]:
    """Delete the organism's snapshots that the ledger named before, and those of dead attempts.

    Beside purge, reconcile and an attempt's own `discard` the one place that deletes published bytes. It is
    safe under the lease: the snapshot that the ledger names stays, and only this claim, or one with a later
    token, can make it name another. A snapshot's name begins with the token of its claim: one with a later
    token was made by who took over from us, and stays. Returns what could not be deleted; the next import
    tries again.
    """
    try:
        if claim.snapshot is None:
            _collect_uris(rails, claim)
        else:
            _collect_snapshots(rails, claim)
    except IngestError as error:
        return (f"old snapshots were left: {error}",)
    return ()


def _collect_snapshots(rails: Rails, claim: Claim) -> None:
    for name in rails.store.names_below(claim.uri):
        token = name.partition("-")[0]
        if name != claim.snapshot and token.isdecimal() and int(token) < claim.token:
            rails.store.delete_below(claim.uri, name)


def _collect_uris(rails: Rails, claim: Claim) -> None:
    """While nothing is published, each claim has a uri of its own: all but ours are dead attempts'.

    Listed first, then compared with the ledger: who took over from us was named there before it wrote.
    """
    folder = claim.uri.rpartition("/")[0]
    there = [uri for uri in rails.store.list_uris({SOURCE}) if uri.rpartition("/")[0] == folder]
    named = {claim.uri, *(row.uri for row in rails.catalog.partitions(SOURCE))}
    for uri in there:
        if uri not in named:
            rails.store.delete_tree(uri)
