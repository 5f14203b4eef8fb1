"""What a published snapshot needs of the store, and whether it is there and whole.

Reads the last byte of each chunk, for Icechunk tells nobody where its chunks lie; writes nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import icechunk
import zarr
from zarr.abc.store import SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from ingest_platform.errors import StoreUnavailable
from ingest_platform.storage.store import Store

# A request waits for the store: 2,000 chunks of a folder take 0.3 s with these.
CHUNKS_AT_ONCE = 64
# Enough to be sure and to show; whoever lost more is not better known by the rest.
LOST_ENOUGH = 20
# Without it Icechunk opens nothing. No other ref is needed: snapshots are opened by id.
REPOSITORY = "refs/branch.main/ref.json"
# How Icechunk tells which object of the repository it was about, be it in a folder or on S3.
_ABOUT = re.compile(r"\b(?P<kind>chunk|manifest|snapshot)_id=(?P<id>\w+)")
_ABOUT_REPOSITORY = re.compile(r"icechunk::refs::fetch_branch\s+with name=\"main\"")
# What its zstd says of bytes that are not what was written, and what a folder and S3 say of too few.
_TORN = re.compile(
    r"I/O error: (Src size is incorrect|incomplete frame|Unknown frame descriptor|Data corruption detected"
    r"|Destination buffer is too small|Restored data doesn't match checksum)"
    r"|Requested range was invalid|\(InvalidRange\)"
)
# A format error, too, but of bytes that a newer Icechunk wrote: these are well.
_OTHER_VERSION = re.compile(r"uses Icechunk format version")


def lost_objects(store: Store, uri: str, snapshot: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths below the store's root that the snapshot needs: those that are absent, those that are torn.

    Torn: the store gives the whole object, and Icechunk says twice that this is none, or that it is too
    short. Wrong bytes within a chunk are not seen: its codec alone would. Both empty: whatever is
    in the snapshot can be read. An array is left after LOST_ENOUGH. StoreUnavailable if that could not be
    told for certain: an error is neither an absence nor a damage.
    """
    absent, torn = _look(store, uri, snapshot)
    if not torn:
        return absent, ()
    absent_again, torn_again = _look(store, uri, snapshot)
    lost, damaged = (*absent, *absent_again), tuple(path for path in torn if path in torn_again)
    if not (lost or damaged):
        raise _trouble(uri, snapshot, f"{torn[0]} was damaged at the first look and not at the second")
    return tuple(dict.fromkeys(lost)), damaged


def _look(store: Store, uri: str, snapshot: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    absent: dict[str, None] = {}
    torn: dict[str, None] = {}
    for error in _errors(store, uri, snapshot):
        told = str(error).partition("\n")[0]
        path = _named_in(error, uri)
        if path is None:
            raise _trouble(uri, snapshot, told) from error
        # The message is a hint only: the store's own plain 404 counts.
        if store.head(path) is None:
            absent[path] = None
        elif _is_torn(error, told):
            store.get(path)  # raises where the store, and not the object, is at fault
            torn[path] = None
        else:
            raise _trouble(uri, snapshot, told) from error
    return tuple(absent), tuple(torn)


def _named_in(error: icechunk.IcechunkError, uri: str) -> str | None:
    """Path of the object that the error is about."""
    if isinstance(error, icechunk.RepositoryNotFoundError) or _ABOUT_REPOSITORY.search(str(error)):
        return f"{uri}/{REPOSITORY}"
    named = _ABOUT.search(str(error))
    return f"{uri}/{named['kind']}s/{named['id']}" if named else None


def _is_torn(error: icechunk.IcechunkError, told: str) -> bool:
    if isinstance(error, icechunk.FormatError):
        return not _OTHER_VERSION.search(told)
    return _TORN.search(told) is not None


def _trouble(uri: str, snapshot: str, told: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"{uri}: snapshot {snapshot} could not be read ({told}). Nothing was judged or changed. Look again"
        " when the store is well."
    )


def _errors(store: Store, uri: str, snapshot: str) -> Iterator[icechunk.IcechunkError]:
    """What reading the snapshot, each manifest and each chunk raises."""
    try:
        repository = icechunk.Repository.open(store.icechunk_storage(uri))
        session = repository.readonly_session(snapshot_id=snapshot)
        root = zarr.open_group(session.store, mode="r")
        arrays = [item for _, item in root.members(max_depth=None) if isinstance(item, zarr.Array)]
    except icechunk.IcechunkError as error:
        yield error
        return
    for array in arrays:
        yield from sync(_errors_of(session, array))


async def _errors_of(session: icechunk.Session, array: zarr.Array[Any]) -> list[icechunk.IcechunkError]:
    errors: list[icechunk.IcechunkError] = []
    turn = asyncio.Semaphore(CHUNKS_AT_ONCE)

    async def read_the_end(key: str) -> None:
        try:
            # Where it ends the manifest says: a chunk that is shorter has no such byte.
            await session.store.get(key, default_buffer_prototype(), SuffixByteRequest(1))
        except icechunk.IcechunkError as error:
            errors.append(error)
        finally:
            turn.release()

    async with asyncio.TaskGroup() as readers:
        try:
            async for place in session.chunk_coordinates(f"/{array.path}"):
                await turn.acquire()
                key = array.metadata.encode_chunk_key(tuple(place))
                readers.create_task(read_the_end(f"{array.path}/{key}"))
                if len(errors) >= LOST_ENOUGH:
                    break
        except icechunk.IcechunkError as error:  # of a manifest
            errors.append(error)
    return errors
