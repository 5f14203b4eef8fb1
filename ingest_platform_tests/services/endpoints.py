"""Where the servers are, as environment variables: what `start` prints and the fixtures read.

A server whose variable is set is somebody else's and is only used; any other is started here.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from ingest_platform_tests.services.postgres import start_postgres
from ingest_platform_tests.services.redis import start_redis
from ingest_platform_tests.services.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server, start_s3
from ingest_platform_tests.services.weaviate import WeaviateServer, start_weaviate

POSTGRES = "INGEST_TEST_POSTGRES_URL"
REDIS = "INGEST_TEST_REDIS_URL"
S3 = "INGEST_TEST_S3_ENDPOINT"
S3_HTTPS = "INGEST_TEST_S3_HTTPS_ENDPOINT"
S3_CA = "INGEST_TEST_S3_CA"
S3_ACCESS_KEY = "INGEST_TEST_S3_ACCESS_KEY"
S3_SECRET_KEY = "INGEST_TEST_S3_SECRET_KEY"  # noqa: S105
S3_REGION = "INGEST_TEST_S3_REGION"
WEAVIATE = "INGEST_TEST_WEAVIATE_URL"
WEAVIATE_GRPC = "INGEST_TEST_WEAVIATE_GRPC_PORT"


def start_all(folder: Path) -> dict[str, str]:
    """Start every server with its data in `folder`; ServerUnavailable at the first that fails."""
    http, https = start_s3(folder), start_s3(folder, https=True)
    weaviate = start_weaviate(folder)
    return {
        POSTGRES: start_postgres(folder),
        REDIS: start_redis(folder),
        S3: http.endpoint,
        S3_HTTPS: https.endpoint,
        S3_CA: str(https.ca_path),
        S3_ACCESS_KEY: http.access_key,
        S3_SECRET_KEY: http.secret_key,
        S3_REGION: http.region,
        WEAVIATE: weaviate.url,
        WEAVIATE_GRPC: str(weaviate.grpc_port),
    }


def given_s3(environ: Mapping[str, str] = os.environ) -> S3Server | None:
    """The S3 server that the environment names."""
    return _given_s3(environ, S3, None)


def given_s3_https(environ: Mapping[str, str] = os.environ) -> S3Server | None:
    """The S3 server by https that the environment names, with the certificate to trust."""
    ca_path = environ.get(S3_CA)
    return _given_s3(environ, S3_HTTPS, Path(ca_path) if ca_path else None)


def given_weaviate(environ: Mapping[str, str] = os.environ) -> WeaviateServer | None:
    """The Weaviate server that the environment names."""
    url = environ.get(WEAVIATE)
    return WeaviateServer(url, int(environ.get(WEAVIATE_GRPC, "50051"))) if url else None


def _given_s3(environ: Mapping[str, str], variable: str, ca_path: Path | None) -> S3Server | None:
    if not (endpoint := environ.get(variable)):
        return None
    keys = environ.get(S3_ACCESS_KEY, ACCESS_KEY), environ.get(S3_SECRET_KEY, SECRET_KEY)
    return S3Server(endpoint, *keys, environ.get(S3_REGION, REGION), ca_path)
