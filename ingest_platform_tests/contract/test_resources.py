"""Resources against real servers: an asset gets a plain client that works, and it is closed afterwards."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterResourceFunctionError
from mypy_boto3_s3 import S3Client
from redis import Redis
from weaviate import WeaviateClient
from weaviate.classes.config import Configure, DataType, Property

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.resources import resources
from ingest_platform.settings import SETTINGS, Settings
from ingest_platform.storage.store import Store
from ingest_platform_tests.services.s3 import S3Server
from ingest_platform_tests.services.weaviate import WeaviateServer


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that holds nothing but a home folder."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("INGEST_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def give(monkeypatch: pytest.MonkeyPatch, environ: Mapping[str, str]) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)


def run(asset: dg.AssetsDefinition) -> None:
    """Materialize with the platform's own resources; what the asset raises is raised."""
    assert dg.materialize([asset], resources=resources()).success


def test_settings_catalog_and_store_need_no_server(home: Path) -> None:
    """Else the embedded defaults of the first minute do not work under Dagster."""

    @dg.asset
    def embedded(
        settings: dg.ResourceParam[Settings],
        catalog: dg.ResourceParam[Catalog],
        store: dg.ResourceParam[Store],
    ) -> None:
        store.put("weather/one/thing", b"bytes")
        assert settings.home == home
        assert catalog.published("weather:gfs", "2026-11-21T00") is None
        assert store.get("weather/one/thing") == b"bytes"

    run(embedded)

    assert (home / "catalog.db").exists()
    assert (home / "data/weather/one/thing").read_bytes() == b"bytes"


def test_the_catalog_is_on_postgres_when_the_environment_says_so(
    home: Path, fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else production quietly keeps its ledger in a container's file."""
    give(monkeypatch, {"INGEST_CATALOG_URL": fresh_database})

    @dg.asset
    def ledger(catalog: dg.ResourceParam[Catalog]) -> None:
        assert catalog.counts() == ()

    run(ledger)

    assert not (home / "catalog.db").exists()


@pytest.mark.parametrize("server", ["s3_server", "s3_https_server"])
def test_the_store_and_the_s3_client_reach_a_real_s3_server(
    server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else published data cannot leave the machine; https shows that a private CA is trusted."""
    s3_server: S3Server = request.getfixturevalue(server)
    bucket = s3_server.fresh_bucket()
    give(monkeypatch, {**s3_server.environment(), "INGEST_STORE_URL": f"s3://{bucket}/published"})

    @dg.asset
    def shared(store: dg.ResourceParam[Store], s3: dg.ResourceParam[S3Client]) -> None:
        store.put("weather/one/thing", b"bytes")
        body = s3.get_object(Bucket=bucket, Key="published/weather/one/thing")["Body"].read()
        assert body == b"bytes"

    run(shared)


def test_the_s3_client_sends_no_trailing_checksum_and_addresses_by_path(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else Swift-like stores refuse every upload."""
    bucket, sent = s3_server.fresh_bucket(), []
    give(monkeypatch, s3_server.environment())

    @dg.asset
    def upload(s3: dg.ResourceParam[S3Client]) -> None:
        s3.meta.events.register("before-send.s3.PutObject", lambda request, **_: sent.append(request))
        s3.put_object(Bucket=bucket, Key="key", Body=b"bytes")

    run(upload)

    (put,) = sent
    assert put.url == f"{s3_server.endpoint}/{bucket}/key"
    assert not [name for name in put.headers if name.lower().startswith(("x-amz-trailer", "x-amz-checksum"))]


def test_redis_is_a_plain_client(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else batch counts cannot be kept where many machines see them."""
    key = f"test:{uuid.uuid4().hex}"
    give(monkeypatch, {"INGEST_REDIS_URL": f"{redis_url}?client_name={key}"})

    @dg.asset
    def counted(redis: dg.ResourceParam[Redis]) -> None:
        redis.set(key, "7", ex=60)
        assert redis.get(key) == "7"

    run(counted)

    with Redis.from_url(redis_url, decode_responses=True) as observer:
        assert key not in {client["name"] for client in observer.client_list()}


def test_weaviate_stores_and_finds_vectors(
    weaviate_endpoint: WeaviateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else concepts cannot be searched by meaning; bulk and queries go over gRPC, the schema over http."""
    give(
        monkeypatch,
        {
            "INGEST_WEAVIATE_URL": weaviate_endpoint.url,
            "INGEST_WEAVIATE_GRPC_PORT": str(weaviate_endpoint.grpc_port),
        },
    )
    name = f"Test{uuid.uuid4().hex}"
    clients: list[Any] = []

    @dg.asset
    def searched(weaviate: dg.ResourceParam[WeaviateClient]) -> None:
        clients.append(weaviate)
        concepts = weaviate.collections.create(
            name,
            vector_config=Configure.Vectors.self_provided(),
            properties=[Property(name="label", data_type=DataType.TEXT)],
        )
        concepts.data.insert({"label": "baker"}, vector=[1.0, 0.0])
        concepts.data.insert({"label": "welder"}, vector=[0.0, 1.0])
        nearest = concepts.query.near_vector([0.1, 0.9], limit=1)
        weaviate.collections.delete(name)
        assert [found.properties["label"] for found in nearest.objects] == ["welder"]

    run(searched)

    assert not clients[0].is_connected()


@pytest.mark.parametrize("resource", ["redis", "weaviate"])
def test_a_server_that_is_not_configured_is_named(resource: str) -> None:
    """Else the embedded default ends in a refused connection to somewhere."""

    @dg.asset(required_resource_keys={resource})
    def needs_a_server() -> None: ...

    with pytest.raises(DagsterResourceFunctionError) as caught:
        run(needs_a_server)

    assert f"INGEST_{resource.upper()}_URL is not set" in str(caught.value.__cause__)


def test_making_the_resources_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a malformed variable makes the whole code location unloadable, and its message unreadable."""
    give(monkeypatch, {"MAX_RETRIES": "many"})

    assert set(resources()) == {"settings", "catalog", "store", "s3", "redis", "weaviate"}
