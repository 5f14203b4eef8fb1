"""What a published snapshot needs of the store, and whether it is there.

Reads a byte of each chunk, for Icechunk tells nobody where its chunks lie; writes nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import icechunk
import zarr
from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from ingest_platform.errors import StoreUnavailable
from ingest_platform.storage.store import Store

# A request waits for the store: 2,000 chunks of a folder take 0.3 s with these.
CHUNKS_AT_ONCE = 64
# Enough to be sure and to show; whoever lost more is not better known by the rest.
MISSING_ENOUGH = 20
# Without it Icechunk opens nothing. No other ref is needed: snapshots are opened by id.
REPOSITORY = "refs/branch.main/ref.json"
# How Icechunk tells which object of the repository the store did not have, be it a folder or S3.
_ABSENT = re.compile(r"object not found.*?\b(?P<kind>chunk|manifest|snapshot)_id=(?P<id>\w+)", re.DOTALL)


def missing_objects(store: Store, uri: str, snapshot: str) -> tuple[str, ...]:
    """Paths below the store's root that the snapshot needs and the store says it does not have.

    Empty: whatever is in the snapshot can be read. An array is left after MISSING_ENOUGH. StoreUnavailable
    if that could not be told for certain: an error is not taken for an absence.
    """
    found: dict[str, None] = {}
    for error in _errors(store, uri, snapshot):
        path = _named_in(error, uri)
        # The message is a hint only: the store's own plain 404 counts.
        if path is None or store.head(path) is not None:
            raise StoreUnavailable(
                f"{uri}: snapshot {snapshot} could not be read ({str(error).partition('\n')[0]}). Nothing was"
                " judged or changed. Look again when the store is well."
            ) from error
        found[path] = None
    return tuple(found)


def _named_in(error: icechunk.IcechunkError, uri: str) -> str | None:
    """Path of the object that the error is about."""
    if isinstance(error, icechunk.RepositoryNotFoundError):
        return f"{uri}/{REPOSITORY}"
    named = _ABSENT.search(str(error))
    return f"{uri}/{named['kind']}s/{named['id']}" if named else None


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

    async def read_a_byte(key: str) -> None:
        try:
            await session.store.get(key, default_buffer_prototype(), RangeByteRequest(0, 1))
        except icechunk.IcechunkError as error:
            errors.append(error)
        finally:
            turn.release()

    async with asyncio.TaskGroup() as readers:
        try:
            async for place in session.chunk_coordinates(f"/{array.path}"):
                await turn.acquire()
                key = array.metadata.encode_chunk_key(tuple(place))
                readers.create_task(read_a_byte(f"{array.path}/{key}"))
                if len(errors) >= MISSING_ENOUGH:
                    break
        except icechunk.IcechunkError as error:  # of a manifest
            errors.append(error)
    return errors
