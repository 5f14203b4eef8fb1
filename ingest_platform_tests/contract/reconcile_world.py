"""A weather world on each database and store, to be damaged by hand and looked at by reconcile."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import obstore
import pytest

from ingest_platform.catalog.model import Snapshot
from ingest_platform.operations.reconcile import Findings, reconcile
from ingest_platform.storage.store import Store
from ingest_platform_tests.services.s3 import S3Server
from ingest_platform_tests.weather_world import CYCLE, World, pocket, world

HRRR = pocket("hrrr")
PARTITION = HRRR.partition_key(CYCLE)
DEAD = f"{HRRR.source_name}/{PARTITION.replace(':', '-')}/{'dead' * 6}"


def world_on(servers: str, request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """Servers are named, e.g. `postgresql and s3`; `root`: the bucket itself is the store."""
    environ = {}
    if "postgresql" in servers:
        environ["INGEST_CATALOG_URL"] = request.getfixturevalue("fresh_database")
    if "s3" in servers:
        server: S3Server = request.getfixturevalue("s3_server")
        environ |= {
            "INGEST_STORE_URL": f"s3://{server.fresh_bucket()}" + ("" if "root" in servers else "/grids"),
            **server.environment(),
        }
    return world(tmp_path, **environ)


def look(place: World, *, apply: bool, hours_later: float = 3, **more: object) -> Findings:
    """Reconcile when everything in the store is that much older."""
    now = datetime.now(UTC) + timedelta(hours=hours_later)
    return reconcile(
        place.catalog,
        place.rails.store,
        now=now,
        apply=apply,
        owner="reconcile",
        **more,  # type: ignore[arg-type]
    )


def ingested(place: World) -> Snapshot:
    """Two leads are published."""
    for lead in (0, 1):
        place.put_lead(HRRR, lead)
    place.ingest(HRRR)
    return named(place)


def named(place: World) -> Snapshot:
    live = place.catalog.published(HRRR.source_name, PARTITION)
    assert live is not None
    return live


def lose(store: Store, *paths: str) -> None:
    """An operator's hand, or the provider's."""
    for path in paths:
        obstore.delete(store._open(), path)


def paths_below(store: Store, folder: str) -> list[str]:
    return sorted(meta["path"] for page in obstore.list(store._open(), folder) for meta in page)
