"""The released sequences of one organism in one pass: checked, counted, hashed, written as SILO reads them.

Takes the bytes of a body wherever they come from (a backend, a kept file); knows no HTTP, engine or ledger.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import orjson
from backports.zstd import ZstdCompressor, ZstdFile

from ingest_platform.errors import Damaged, SourceUnavailable, StoreUnavailable
from ingest_platform.silo.frames import NOTHING_USED, inflate, lines
from ingest_platform.silo.record import (
    KEYS,
    Json,
    Unfit,
    dump,
    flatten,
    parse,
    pipeline_version,
    primary_key,
    whole_number,
)

# The backend writes this into a stream that it cannot finish, and then ends it as if all were well.
SERVER_GAVE_UP = b"An unexpected error occurred while streaming"
# Of 900 MB of genomes level 3 makes 6.5 MB in 0.2 s; level 1 is no faster and makes 9.3 MB. Plain
# files cost the disk seconds. The engine reads them through a pipe.
RECORDS_ZSTD_LEVEL = 3
# 16 bytes a genome: with 8, one in 370,000 sets of 10 million genomes would have a false duplicate for ever.
KEY_HASH_BYTES = 16
EXCERPT_BYTES = 200
KEPT_PIECE_BYTES = 1 << 17


@dataclass(frozen=True, slots=True)
class Layout:
    """What an import looks at in each record's metadata."""

    primary_key: str = "accessionVersion"  # metadata field, unique
    lineage_fields: tuple[str, ...] = ()  # metadata fields whose values are counted


@dataclass(frozen=True, slots=True)
class Released:
    """What a whole and sound body holds."""

    rows: int
    content_hash: str  # sha256 of the record lines in their order, each with one newline, no blank ones
    body_bytes: int  # as sent
    content_bytes: int  # decompressed, as hashed
    pipeline_versions: Mapping[int | None, int]  # version → records; None: without
    lineages: Mapping[str, Mapping[str, int]]  # field → value → records; null and "" are no values
    first: str | None  # primary keys, in the order of the stream
    last: str | None
    warnings: tuple[str, ...]


def receive(
    body: Iterable[bytes], target: Path, *, name: str, announced: str | None, layout: Layout
) -> Released:
    """Read the whole body and write its records to `target`, as SILO's NDJSON, zstd.

    `name`: the organism, for messages. `announced`: the x-total-records header as it came, None: absent.
    Damaged (frames, JSON, keys, duplicates, count), SourceUnavailable (the server says that it gave
    up), StoreUnavailable (no room). Whatever fails, `target` is not to be used. Re-ordered records are
    new content: SILO answers in the order of its input. Memory: 30 MB and 16 bytes a record.
    """
    reading = _Reading(name, layout)
    pieces = inflate(reading.counted(body), name=name)
    try:
        with target.open("wb") as file:
            _write(file, map(reading.transformed, filter(bytes.strip, lines(pieces, name=name))))
    except OSError as error:
        raise _no_room(name, target, error) from error
    reading.require_unique(target)
    reading.require_announced(announced)
    return reading.result()


def _write(file: BinaryIO, flat: Iterable[bytes]) -> None:
    compressor = ZstdCompressor(level=RECORDS_ZSTD_LEVEL)
    for line in flat:
        file.write(compressor.compress(line))
    file.write(compressor.flush())


def keep(body: Iterable[bytes], path: Path, *, name: str) -> Iterator[bytes]:
    """The same pieces, each written to `path` before it is passed on. StoreUnavailable: no room."""
    try:
        with path.open("wb") as file:
            for piece in body:
                file.write(piece)
                yield piece
    except OSError as error:
        raise _no_room(name, path, error) from error


def kept(path: Path) -> Iterator[bytes]:
    """The pieces of a body that was kept. StoreUnavailable if it cannot be read."""
    try:
        with path.open("rb") as file:
            while piece := file.read(KEPT_PIECE_BYTES):
                yield piece
    except OSError as error:
        raise StoreUnavailable(
            f"{path}: the kept body cannot be read: {error}. Download it again."
        ) from error


@dataclass(slots=True)
class _Reading:
    """What is known of the stream so far."""

    name: str
    layout: Layout
    rows: int = 0
    body_bytes: int = 0
    content_bytes: int = 0
    content_hash: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    key_hashes: bytearray = field(default_factory=bytearray)
    versions: Counter[int | None] = field(default_factory=Counter)
    lineages: dict[str, Counter[str]] = field(default_factory=dict)
    unknown_keys: set[str] = field(default_factory=set)
    first: str | None = None
    last: str | None = None
    warnings: list[str] = field(default_factory=list)

    def counted(self, body: Iterable[bytes]) -> Iterator[bytes]:
        for piece in body:
            self.body_bytes += len(piece)
            yield piece

    def transformed(self, line: bytes) -> bytes:
        """SILO's line for one of the backend's, and what it says noted."""
        try:
            record = parse(line)
            self._note(record["metadata"])
            self.unknown_keys |= record.keys() - KEYS
            made = dump(flatten(record))
        except Unfit as unfit:
            raise self._refusal(line, unfit) from unfit
        self._count(line)
        return made

    def _note(self, metadata: Json) -> None:
        key = primary_key(metadata, self.layout.primary_key)
        self.versions[pipeline_version(metadata)] += 1
        for name in self.layout.lineage_fields:
            if (value := metadata.get(name)) not in (None, ""):
                self.lineages.setdefault(name, Counter())[str(value)] += 1
        self.key_hashes += hashlib.blake2b(key.encode(), digest_size=KEY_HASH_BYTES).digest()
        self.first, self.last = self.first or key, key

    def _count(self, line: bytes) -> None:
        self.content_hash.update(line)
        self.content_hash.update(b"\n")
        self.content_bytes += len(line) + 1
        self.rows += 1

    def _refusal(self, line: bytes, unfit: Unfit) -> Damaged | SourceUnavailable:
        where = f"{self.name}: record {self.rows + 1:,} at byte {self.content_bytes:,} (decompressed)"
        given_up = line.find(SERVER_GAVE_UP)
        if given_up >= 0:
            said = line[given_up : given_up + EXCERPT_BYTES].decode(errors="replace")
            return SourceUnavailable(f"{where}: the backend broke off and says: {said!r}. {NOTHING_USED}")
        return Damaged(f"{where}: {unfit}; it begins {line[:EXCERPT_BYTES]!r}. {NOTHING_USED}")

    def require_unique(self, target: Path) -> None:
        """Damaged, naming both records, if two have one primary key."""
        halves = np.frombuffer(self.key_hashes, dtype=np.uint64).reshape(-1, 2)
        order = np.lexsort((halves[:, 0], halves[:, 1]))
        same = np.flatnonzero((halves[order][1:] == halves[order][:-1]).all(axis=1))
        if same.size:
            one, other = sorted(int(n) for n in order[same[0] : same[0] + 2])
            raise Damaged(
                f"{self.name}: records {one + 1:,} and {other + 1:,} both have the"
                f" {self.layout.primary_key} {_key_of(target, one, self.layout)!r};"
                f" {same.size:,} such pairs in {self.rows:,} records. {NOTHING_USED}"
            )

    def require_announced(self, announced: str | None) -> None:
        """Damaged if the server announced another number of records; a warning if it announced none."""
        if announced is None:
            self.warnings.append("the answer has no x-total-records: the number of records was not checked")
        elif (expected := whole_number(announced.strip())) is None:
            told = repr(announced[:EXCERPT_BYTES])
            self.warnings.append(f"x-total-records is {told}: the number of records was not checked")
        elif expected != self.rows:
            raise Damaged(
                f"{self.name}: {expected:,} records were announced (x-total-records), {self.rows:,}"
                f" came. {NOTHING_USED}"
            )

    def result(self) -> Released:
        if self.unknown_keys:
            self.warnings.append(f"left out, as SILO has no place for it: {sorted(self.unknown_keys)}")
        return Released(
            rows=self.rows,
            content_hash=self.content_hash.hexdigest(),
            body_bytes=self.body_bytes,
            content_bytes=self.content_bytes,
            pipeline_versions=dict(self.versions),
            lineages={name: dict(self.lineages.get(name, {})) for name in self.layout.lineage_fields},
            first=self.first,
            last=self.last,
            warnings=tuple(self.warnings),
        )


def _key_of(records: Path, number: int, layout: Layout) -> str:
    """The primary key of the record with this number, from 0."""
    with ZstdFile(records) as file:
        flat = orjson.loads(next(islice(file, number, None)))
    return str(flat[layout.primary_key])


def _no_room(name: str, path: Path, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(
        f"{name}: {path.name} does not fit into {path.parent}: {error}. Nothing was used, the published"
        " index stays. Make room, or move the scratch folder."
    )
