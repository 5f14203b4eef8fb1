"""Fetches what a model's parameters need of one source object, and proves that it is what was asked for.

Every byte is read under the ETag that the ledger holds, every message is checked against its frame. With
an inventory only the wanted ranges are read; without one, or when it does not fit its GRIB, the whole
object is fetched and scanned: slower, same result. Decodes nothing, publishes nothing.

Incomplete: the source is still publishing, wait. Damaged: the object's own fault. SourceChanged: a newer
version came, start again from it.
"""

import gzip
import mmap
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, wait
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal

from ingest_platform.catalog.model import SourceObject
from ingest_platform.errors import Damaged, Incomplete, StoreUnavailable
from ingest_platform.storage.bucket import Bucket
from ingest_platform.storage.scratch import Scratch
from ingest_platform.weather.framing import (
    SECTION_0_BYTES,
    Framed,
    Truncated,
    frame_error,
    head_length,
    scan_messages,
)
from ingest_platform.weather.idx import (
    Identity,
    IndexEntry,
    IndexMismatch,
    absent,
    choose,
    parse_index,
    select,
)
from ingest_platform.weather.model import Parameter, Rejected, Source

# A request costs about 40 ms until its first byte, in which a stream of 18 MB/s brings 700 kB: bridging a
# smaller gap is cheaper than asking again. On GFS f007 with 63 messages: 30 ranges, no extra bytes.
BRIDGED_BYTES = 512 << 10
# Longer ranges leave the other connections idle: at 8 MB no stream holds more than 0.5 s of the work.
LONGEST_RANGE_BYTES = 8 << 20
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
GZIP_SIGNATURE = b"\x1f\x8b\x08"


@dataclass(frozen=True, slots=True)
class Message:
    """One wanted GRIB2 message, whole: its frame was checked, its values were not."""

    payload: bytes | memoryview  # of a range that holds its neighbours too
    offset: int
    parameter: Parameter
    level: str
    window_text: str
    field: int = 0  # position among the fields that share the message


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one object gave."""

    messages: tuple[Message, ...]
    missing: tuple[tuple[Parameter, str], ...]  # configured levels that the object does not hold
    unknown_count: int  # messages of a variable and level that no parameter asks for
    rejected: tuple[Rejected, ...]  # only a scan can tell: with an inventory a bad frame leads to one
    path: Literal["index", "scan"]
    bytes_read: int
    why_scanned: str | None = None


class _NotAsIndexedError(Exception):
    """The bytes are not what the inventory says."""


def fetch_messages(
    bucket: Bucket,
    object: SourceObject,
    source: Source,
    parameters: Sequence[Parameter],
    *,
    identify: Callable[[bytes], Identity],
    grace: timedelta,
    now: datetime,
    scratch: Scratch,
    executor: Executor,
    index_lead: timedelta = timedelta(0),
) -> Fetched:
    """The messages of `parameters` in a GRIB2 object, in the parameters' order.

    `grace`: how long an object may lack its inventory before it is read without. `index_lead`: how much
    older than its GRIB an inventory may be. `identify` tells a message's identity from its head and
    raises Damaged where it cannot. Ranges are read in `executor`; do not call this from one of its threads.
    Incomplete, Damaged, SourceChanged, SourceUnavailable, StoreUnavailable (scratch full).
    """
    _raise_if_empty(object)
    index = _index(bucket, object, source, grace, now, index_lead)
    if not isinstance(index, str):
        try:
            return _by_index(bucket, object, index, parameters, executor)
        except _NotAsIndexedError as mismatch:
            index = str(mismatch)
    return _by_scan(bucket, object, parameters, identify, scratch, executor, why=index)


def fetch_gzip(bucket: Bucket, object: SourceObject) -> bytes:
    """The inflated content of a gzipped object; its CRC and size are checked. Damaged if they disagree."""
    _raise_if_empty(object)
    packed = bucket.read(object.key, start=0, length=object.size_bytes, etag=object.etag or None)
    _raise_unless(packed.startswith(GZIP_SIGNATURE), object, "a gzip file", packed)
    try:
        return gzip.decompress(packed)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Damaged(
            f"{_name(object)}: gzip of {object.size_bytes:,} bytes, truncated or damaged: {error}. {AGAIN}"
        ) from error


def fetch_whole(bucket: Bucket, object: SourceObject, *, executor: Executor) -> bytes:
    """A netCDF-4 object; Damaged if it is no HDF5 file or ends before the length that its superblock says."""
    _raise_if_empty(object)
    spans = _split(0, object.size_bytes)
    body = b"".join(_gather(executor, [_reading(bucket, object, start, length) for start, length in spans]))
    _raise_unless(body.startswith(HDF5_SIGNATURE), object, "an HDF5 file", body)
    said = _hdf5_length(body)
    if said is None or len(body) < said:
        raise Damaged(
            f"{_name(object)}: truncated: its superblock says {said or 0:,} bytes, it has {len(body):,}."
            f" {AGAIN}"
        )
    return body


AGAIN = "Nothing of it was used, what is published stays. It is tried again; a new upload heals it."


def _index(
    bucket: Bucket,
    object: SourceObject,
    source: Source,
    grace: timedelta,
    now: datetime,
    lead: timedelta,
) -> tuple[IndexEntry, ...] | str:
    """The object's inventory, or why the object must be read without one."""
    if source.index is None:
        return "this source has no inventories"
    key = object.key + source.index
    listed = bucket.find(key)
    if listed is None:
        if now - object.version_time < grace:
            raise Incomplete(
                f"{_name(object)}: its inventory {key} is not there yet. It is waited for until"
                f" {object.version_time + grace:%H:%M:%S}Z, then the whole object is read."
            )
        return f"no inventory {key}"
    # HTTP dates have no fractions of a second, listings do.
    if listed.last_modified + lead < object.version_time.replace(microsecond=0):
        return (
            f"the inventory is of {listed.last_modified:%F %T}Z, the object of {object.version_time:%F %T}Z"
        )
    body, _ = bucket.read_all(key, etag=listed.etag or None)
    text = body.decode("utf-8", "replace")
    try:
        return parse_index(text, object.size_bytes)
    except IndexMismatch as mismatch:
        _raise_if_cut(bucket, object, text)
        return str(mismatch)
    except Damaged as damage:
        return str(damage)


def _raise_if_cut(bucket: Bucket, object: SourceObject, text: str) -> None:
    """Incomplete if the object is the beginning of what the inventory describes; 16 bytes tell."""
    try:
        entries = parse_index(text, 1 << 62)
    except IndexMismatch:
        return
    covered = [entry for entry in entries if entry.offset + SECTION_0_BYTES <= object.size_bytes]
    if not covered:
        return
    last = covered[-1]
    head = bucket.read(object.key, start=last.offset, length=SECTION_0_BYTES, etag=object.etag or None)
    if head_length(head) == last.length:
        raise Incomplete(
            f"{_name(object)}: has {object.size_bytes:,} bytes and ends at or in message {last.number} of"
            f" {entries[-1].number}: its upload is not complete. It is waited for."
        )


def _by_index(
    bucket: Bucket,
    object: SourceObject,
    entries: tuple[IndexEntry, ...],
    parameters: Sequence[Parameter],
    executor: Executor,
) -> Fetched:
    wanted = select(entries, parameters)
    spans = {(want.entry.offset, want.entry.length) for want in wanted}
    # The last message's head, even if unwanted: if it ends with the object, inventory and object
    # agree from end to end, and a shifted one is found before it misleads.
    last = entries[-1]
    probe = (last.offset, SECTION_0_BYTES)
    ranges = coalesce(sorted(spans))
    jobs = [_reading(bucket, object, start, length) for start, length in [probe, *ranges]]
    head, *bodies = _gather(executor, jobs)
    if head_length(head) != last.length:
        raise _NotAsIndexedError(
            f"inventory and object disagree about the last message, at byte {last.offset:,}"
        )
    payloads = _cut(spans, ranges, bodies)
    messages = [
        Message(payloads[entry.offset], entry.offset, parameter, level, entry.identity.window, entry.field)
        for parameter, level, entry in ((want.parameter, want.level, want.entry) for want in wanted)
    ]
    identities = [entry.identity for entry in entries]
    bytes_read = SECTION_0_BYTES + sum(map(len, bodies))
    return _fetched(messages, identities, parameters, (), "index", bytes_read)


def coalesce(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges (start, length) that cover ascending spans (offset, length), small gaps bridged."""
    ranges: list[tuple[int, int]] = []
    for offset, length in spans:
        start, covered = ranges[-1] if ranges else (0, -1)
        joined = offset + length - start
        if covered >= 0 and offset - start - covered <= BRIDGED_BYTES and joined <= LONGEST_RANGE_BYTES:
            ranges[-1] = (start, max(covered, joined))
        else:
            ranges.append((offset, length))
    return ranges


def _cut(
    spans: set[tuple[int, int]], ranges: Sequence[tuple[int, int]], bodies: Sequence[bytes]
) -> dict[int, memoryview]:
    """Each span's bytes by its offset; _NotAsIndexedError if one is not exactly one message."""
    payloads: dict[int, memoryview] = {}
    for (start, length), body in zip(ranges, bodies, strict=True):
        view = memoryview(body)
        for offset, size in spans:
            if start <= offset < start + length:
                payload = view[offset - start : offset - start + size]
                if error := frame_error(payload, size):
                    raise _NotAsIndexedError(f"the inventory's message at byte {offset:,} {error}")
                payloads[offset] = payload
    return payloads


def _by_scan(
    bucket: Bucket,
    object: SourceObject,
    parameters: Sequence[Parameter],
    identify: Callable[[bytes], Identity],
    scratch: Scratch,
    executor: Executor,
    why: str,
) -> Fetched:
    path = scratch.file(f"object-{object.id}.grib2")
    try:
        _download(bucket, object, path, executor)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            frames, rejected = _frames(object, buffer)
            return _identified(buffer, frames, rejected, parameters, identify, object, why)
    finally:
        path.unlink(missing_ok=True)


def _download(bucket: Bucket, object: SourceObject, path: Path, executor: Executor) -> None:
    """The whole object into `path`, by parallel ranges of one version."""
    target = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)

    def copy(start: int, length: int) -> None:
        body = _reading(bucket, object, start, length)()
        if os.pwrite(target, body, start) != length:
            raise OSError(f"{path} took only a part of {length:,} bytes")

    try:
        spans = _split(0, object.size_bytes)
        _gather(executor, [partial(copy, start, length) for start, length in spans])
    except OSError as error:
        raise StoreUnavailable(
            f"{_name(object)}: {object.size_bytes:,} bytes do not fit into {path.parent}: {error}."
            " Nothing was used. Make room, or move the scratch folder."
        ) from error
    finally:
        os.close(target)


def _frames(object: SourceObject, buffer: mmap.mmap) -> tuple[list[Framed], list[Rejected]]:
    parts = scan_messages(buffer)
    if not parts:
        _raise_unless(False, object, "GRIB2 messages", buffer[:80])
    for part in parts:
        if isinstance(part, Truncated):
            raise Incomplete(
                f"{_name(object)}: ends inside message {len(parts)}: {part.length:,} bytes from byte"
                f" {part.offset:,}, {part.available:,} are there. The upload is not complete; waiting for it."
            )
    return [p for p in parts if isinstance(p, Framed)], [p for p in parts if isinstance(p, Rejected)]


def _identified(
    buffer: mmap.mmap,
    frames: Sequence[Framed],
    rejected: list[Rejected],
    parameters: Sequence[Parameter],
    identify: Callable[[bytes], Identity],
    object: SourceObject,
    why: str,
) -> Fetched:
    known: list[tuple[Framed, Identity]] = []
    for number, frame in enumerate(frames, 1):
        try:
            known.append((frame, identify(buffer[frame.offset : frame.offset + frame.length])))
        except Damaged as damage:
            what = f"whole message {number} at byte {frame.offset:,}"
            rejected.append(Rejected(what, str(damage), "identity"))
    identities = [identity for _, identity in known]
    messages = []
    for choice in choose(identities, parameters):
        frame, identity = known[choice.position]
        payload = buffer[frame.offset : frame.offset + frame.length]
        messages.append(Message(payload, frame.offset, choice.parameter, choice.level, identity.window))
    return _fetched(messages, identities, parameters, rejected, "scan", object.size_bytes, why)


def _fetched(
    messages: Sequence[Message],
    identities: Sequence[Identity],
    parameters: Sequence[Parameter],
    rejected: Sequence[Rejected],
    path: Literal["index", "scan"],
    bytes_read: int,
    why_scanned: str | None = None,
) -> Fetched:
    asked = {(parameter.variable, level) for parameter in parameters for level in parameter.levels()}
    return Fetched(
        tuple(messages),
        absent(identities, parameters),
        sum((identity.variable, identity.level) not in asked for identity in identities),
        tuple(rejected),
        path,
        bytes_read,
        why_scanned,
    )


def _split(start: int, size: int) -> list[tuple[int, int]]:
    return [(at, min(LONGEST_RANGE_BYTES, size - at)) for at in range(start, size, LONGEST_RANGE_BYTES)]


def _reading(bucket: Bucket, object: SourceObject, start: int, length: int) -> Callable[[], bytes]:
    return lambda: bucket.read(object.key, start=start, length=length, etag=object.etag or None)


def _gather[T](executor: Executor, jobs: Sequence[Callable[[], T]]) -> list[T]:
    """All results in order, or the first error when every started job has ended."""
    futures = [executor.submit(job) for job in jobs]
    done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
    for future in waiting:
        future.cancel()
    # A job that still runs may write to the scratch folder: nobody leaves before it has.
    wait(waiting)
    for future in done:
        future.result()
    return [future.result() for future in futures]


def _raise_if_empty(object: SourceObject) -> None:
    if object.size_bytes == 0:
        raise Damaged(f"{_name(object)}: has 0 bytes. {AGAIN}")


def _raise_unless(holds: bool, object: SourceObject, expected: str, body: bytes) -> None:
    if not holds:
        raise Damaged(f"{_name(object)}: expected {expected}, found {body[:80]!r}. {AGAIN}")


def _hdf5_length(body: bytes) -> int | None:
    """End-of-file address of an HDF5 superblock with 8-byte offsets (file format specification, II.A)."""
    # Versions 0 and 1 put base, free-space and end addresses after 24 or 28 bytes, 2 and 3 after 12.
    at = {0: 24 + 16, 1: 28 + 16, 2: 12 + 16, 3: 12 + 16}.get(body[8] if len(body) > 8 else -1)
    return int.from_bytes(body[at : at + 8], "little") if at and len(body) >= at + 8 else None


def _name(object: SourceObject) -> str:
    return f"{object.bucket}/{object.key}"
