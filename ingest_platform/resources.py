"""Dagster resources that hand out plain clients. Nothing is opened or read before a run or tick asks.

Each reads the environment when it is opened, so secrets never stand in a run's configuration.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dagster as dg

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.errors import PermanentError
from ingest_platform.settings import Settings
from ingest_platform.storage.store import Store, store_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from redis import Redis
    from weaviate import WeaviateClient


class SettingsResource(dg.ConfigurableResource[Settings]):
    """The environment as a frozen value."""

    def create_resource(self, context: dg.InitResourceContext) -> Settings:
        return Settings.from_environment(os.environ)


class CatalogResource(dg.ConfigurableResource[Catalog]):
    """The ledger, closed when the run or tick ends."""

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Catalog]:
        settings = Settings.from_environment(os.environ)
        settings.home.mkdir(parents=True, exist_ok=True)
        with Catalog.open(settings.catalog_url) as catalog:
            yield catalog


class StoreResource(dg.ConfigurableResource[Store]):
    """The published store."""

    def create_resource(self, context: dg.InitResourceContext) -> Store:
        return store_of(Settings.from_environment(os.environ))


class S3Resource(dg.ConfigurableResource["S3Client"]):
    """A boto3 client for what needs AWS's own API; bulk bytes go through the store."""

    def create_resource(self, context: dg.InitResourceContext) -> "S3Client":
        import boto3
        from botocore.config import Config

        settings = Settings.from_environment(os.environ)
        keys = settings.store_credentials
        return boto3.client(
            "s3",
            endpoint_url=settings.store_endpoint,
            region_name=settings.store_region,
            aws_access_key_id=keys.access_key_id if keys else None,
            aws_secret_access_key=keys.secret_access_key if keys else None,
            aws_session_token=keys.session_token if keys else None,
            verify=str(settings.ca_file) if settings.ca_file else None,
            # Swift-like stores refuse trailing checksums and know no virtual hosts.
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                signature_version="s3v4",
            ),
        )


class RedisResource(dg.ConfigurableResource["Redis"]):
    """A Redis client, closed at the end."""

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["Redis"]:
        import redis

        url = _needed("INGEST_REDIS_URL", Settings.from_environment(os.environ).redis_url)
        with redis.Redis.from_url(url, decode_responses=True) as client:
            yield client


class WeaviateResource(dg.ConfigurableResource["WeaviateClient"]):
    """A Weaviate client, closed at the end."""

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["WeaviateClient"]:
        import weaviate

        settings = Settings.from_environment(os.environ)
        url = urlsplit(_needed("INGEST_WEAVIATE_URL", settings.weaviate_url))
        host, secure = url.hostname or "127.0.0.1", url.scheme == "https"
        with weaviate.connect_to_custom(
            http_host=host,
            http_port=url.port or (443 if secure else 80),
            http_secure=secure,
            grpc_host=host,
            grpc_port=settings.weaviate_grpc_port,
            grpc_secure=secure,
        ) as client:
            yield client


def _needed(name: str, value: str | None) -> str:
    if value is None:
        raise PermanentError(
            f"{name} is not set: this needs the server that it names. Set it and launch again."
        )
    return value


def resources() -> Mapping[str, Any]:
    """Every resource by the name that assets ask for."""
    return {
        "settings": SettingsResource(),
        "catalog": CatalogResource(),
        "store": StoreResource(),
        "s3": S3Resource(),
        "redis": RedisResource(),
        "weaviate": WeaviateResource(),
    }
