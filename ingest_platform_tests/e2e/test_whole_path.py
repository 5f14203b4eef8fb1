"""The whole path once, on what production has: PostgreSQL for ledger and Dagster, S3 for sources and store.

From a listing of buckets under their real names, read unsigned, to values in xarray that are bit for bit
those of the source's files.
"""

import gzip
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray

from ingest_platform.demo.mirror import MirroredObject
from ingest_platform.weather.eccodes_library import load_eccodes
from ingest_platform.weather.model import Kind
from ingest_platform.weather.read import open_weather
from ingest_platform_tests.e2e.dagster_instance import dagster_daemon
from ingest_platform_tests.e2e.place import REPOSITORY, Place, buckets_on
from ingest_platform_tests.services.postgres import fresh_database as another_database
from ingest_platform_tests.services.s3 import S3Server

# Five runs on a store and databases behind sockets, on two cores that other tests use too.
INGESTED_WITHIN_SECONDS = 240

type Values = NDArray[np.float32]


@pytest.fixture
def production(place: Place, fresh_database: str, postgres_url: str, s3_server: S3Server) -> Iterator[Place]:
    """A place whose sources and store are S3, whose ledger and Dagster are PostgreSQL."""
    shutil.copy(REPOSITORY / "deploy" / "dagster.yaml", place.environ["DAGSTER_HOME"])
    with another_database(postgres_url) as dagster_database:
        database = sa.make_url(dagster_database)
        yield place.with_settings(
            INGEST_WEATHER_ENDPOINT=s3_server.endpoint,
            INGEST_STORE_URL=f"s3://{s3_server.fresh_bucket()}/published",
            INGEST_CATALOG_URL=fresh_database,
            DAGSTER_PG_HOST=str(database.host),
            DAGSTER_PG_PORT=str(database.port),
            DAGSTER_PG_USERNAME=str(database.username),
            DAGSTER_PG_PASSWORD=database.password or "trusted",
            DAGSTER_PG_DB=str(database.database),
            S3_LOG_BUCKET=s3_server.fresh_bucket(),
            **s3_server.environment(),
        )


def test_from_the_real_bucket_names_to_equal_values_in_xarray(
    production: Place, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part may be right and the path still be broken, or give other values than the source's."""
    published = production.publish()
    partitions = {made.model: production.partition(made) for made in published}
    assert {made.bucket for made in published} == {
        "noaa-gfs-bdp-pds",
        "noaa-hrrr-bdp-pds",
        "noaa-goes18",
        "noaa-goes19",
        "noaa-mrms-pds",
    }

    with buckets_on(s3_server, production), dagster_daemon(production) as dagster:
        # The instance file names its variables, and this process reads the same file.
        for name, value in production.environ.items():
            monkeypatch.setenv(name, value)
        with dagster.instance() as instance:
            dagster.wait_for(
                lambda: all(materialized(instance, *item) for item in partitions.items()),
                f"all of {partitions} ingested by their sensors",
                INGESTED_WITHIN_SECONDS,
            )

    for made in published:
        assert_equal_to_source(production, made)


def materialized(instance: dg.DagsterInstance, model: str, partition: str) -> bool:
    return partition in instance.get_materialized_partitions(dg.AssetKey(["weather", model, "grids"]))


def assert_equal_to_source(place: Place, made: MirroredObject) -> None:
    """Each live grid of the object is what eccodes, or h5py, reads from the file itself."""
    model, partition = place.models[made.model], place.partition(made)
    live = open_weather(made.model, partition, environ=place.environ)
    with place.catalog() as catalog:
        named = catalog.published(model.source_name, partition)
        [row] = [row for row in catalog.objects(model.source_name, partition) if row.key == made.key]
    assert named is not None
    mine = [grid for grid in named.artifacts if str(grid["name"]).startswith(f"{row.slot}/")]
    assert mine
    match model.kind:
        case Kind.FORECAST:
            messages = forecast_messages(made.path)
            for grid in mine:
                field = live[grid["array"]].sel(lead=np.timedelta64(grid["lead_seconds"], "s"))
                if grid["level_index"] is not None:
                    field = field.sel({field.dims[0]: int(grid["level"].removesuffix(" mb"))})
                expected = messages[grid["parameter"], grid["level"], grid["window"]]
                np.testing.assert_array_equal(field.values, expected, err_msg=f"{made.key} {grid['name']}")
        case Kind.RADAR:
            [grid] = mine
            [parameter] = (p for p in model.parameters if p.name == grid["variable"])
            [(_, expected)] = messages_of(gzip.decompress(made.path.read_bytes()))
            at = np.datetime64(grid["valid_time"].replace(tzinfo=None), "ns")
            field = live[grid["array"]].sel({f"time_{parameter.name}": at})
            wanted = np.where(np.isin(expected, parameter.missing), np.nan, expected)
            np.testing.assert_array_equal(field.values, wanted, err_msg=made.key)
        case Kind.SATELLITE:
            [grid] = mine
            field = live[grid["array"]].isel(time=0)
            np.testing.assert_allclose(field.values, scan(made.path), rtol=1e-6, err_msg=made.key)


def forecast_messages(path: Path) -> Mapping[tuple[str, str, str], Values]:
    """(variable, level, window), as the inventory beside the file calls them → values in the file's order."""
    found: dict[tuple[str, str, str], Values] = {}
    lines = path.with_name(path.name + ".idx").read_text().splitlines()
    for line, (_, values) in zip(lines, messages_of(path.read_bytes()), strict=True):
        _number, _offset, _date, variable, level, time, *_ = line.split(":")
        window = (
            time.removesuffix(" fcst") if any(w in time for w in ("acc", "ave", "max", "min")) else "instant"
        )
        found.setdefault((variable, level, window), values)
    return found


def messages_of(content: bytes) -> Iterator[tuple[int, Values]]:
    """Straight from eccodes: no line of ours between the file and the values but their shape."""
    eccodes = load_eccodes()
    start = number = 0
    while start < len(content):
        length = int.from_bytes(content[start + 8 : start + 16], "big")
        handle = eccodes.codes_new_from_message(content[start : start + length])
        try:
            rows, columns = (eccodes.codes_get(handle, key) for key in ("Nj", "Ni"))
            values: NDArray[Any] = eccodes.codes_get_values(handle)
        finally:
            eccodes.codes_release(handle)
        yield number, values.astype(np.float32).reshape(rows, columns)
        start, number = start + length, number + 1


def scan(path: Path) -> Values:
    """Straight from h5py."""
    import h5py

    with h5py.File(path) as file:
        image = file["CMI"]
        stored = image[...].view(np.uint16)
        good = stored != np.uint16(image.attrs["_FillValue"].view(np.uint16)[0])
        values = stored * image.attrs["scale_factor"][0] + image.attrs["add_offset"][0]
    return np.where(good, values, np.nan).astype(np.float32)
