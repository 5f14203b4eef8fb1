"""What the ledger says of an organism: the one index that readers may open, and all that only it moves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.model import Snapshot

SOURCE = "silo"  # the ledger's name for all organisms; an organism's id is its partition and its slot


@dataclass(frozen=True, slots=True)
class Live:
    """The published index of an organism. `uri`/`snapshot` in the store hold its body and its files."""

    organism: str
    uri: str
    snapshot: str
    rows: int
    body_bytes: int  # as the backend sent it
    content_bytes: int  # decompressed
    index_bytes: int
    content_hash: str
    index_hash: str  # data version: the same means the same index
    etag: str  # of the release; sent with the next conditional request
    pipeline_versions: Mapping[int | None, int]  # None: records without one
    lineages: tuple[Mapping[str, Any], ...]  # {system, version, url, sha256} each
    warnings: tuple[str, ...]
    engine: str
    engine_seconds: float
    log_tail: str
    built_at: datetime
    refreshed_at: datetime  # when all was looked at last, changed or not
    index_timestamp: int  # name of its folder in the output folder

    def details(self) -> dict[str, object]:
        """The columns of the ledger's typed table."""
        return {
            "rows": self.rows,
            "body_bytes": self.body_bytes,
            "content_bytes": self.content_bytes,
            "index_bytes": self.index_bytes,
            "content_hash": self.content_hash,
            "index_hash": self.index_hash,
            "release_etag": self.etag,
            "pipeline_versions": json.dumps({str(v or ""): n for v, n in self.pipeline_versions.items()}),
            "lineages": json.dumps(self.lineages),
            "warnings": json.dumps(self.warnings),
            "engine": self.engine,
            "engine_seconds": self.engine_seconds,
            "log_tail": self.log_tail,
            "built_at": self.built_at,
            "refreshed_at": self.refreshed_at,
            "index_timestamp": self.index_timestamp,
        }


def live(catalog: Catalog, organism: str) -> Live | None:
    """The published index of an organism; None: there is none yet, or its bytes were lost."""
    found = catalog.published(SOURCE, organism)
    return None if found is None else _live(found)


def lives(catalog: Catalog) -> Mapping[str, Live]:
    """Those of all organisms that have one, in one read."""
    return {found.partition: _live(found) for found in catalog.every_published(SOURCE)}


def _live(found: Snapshot) -> Live:
    (row,) = found.artifacts
    same = ("rows", "body_bytes", "content_bytes", "index_bytes", "content_hash", "index_hash", "engine")
    return Live(
        organism=found.partition,
        uri=found.uri,
        snapshot=found.snapshot,
        etag=row["release_etag"],
        pipeline_versions={int(v) if v else None: n for v, n in json.loads(row["pipeline_versions"]).items()},
        lineages=tuple(json.loads(row["lineages"])),
        warnings=tuple(json.loads(row["warnings"])),
        **{name: row[name] for name in (*same, "engine_seconds", "log_tail")},
        **{name: row[name] for name in ("built_at", "refreshed_at", "index_timestamp")},
    )
