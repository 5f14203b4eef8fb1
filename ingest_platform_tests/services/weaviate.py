"""A real weaviate-server without vectorizer modules: the vectors come from us.

gRPC and the cluster ports listen on every interface whatever the host flag says, so all of them are ports the
kernel calls free, and none is a known one.
"""

from dataclasses import dataclass
from pathlib import Path

from ingest_platform_tests.services.install import WEAVIATE, binary
from ingest_platform_tests.services.processes import free_port, launch
from ingest_platform_tests.services.s3 import answers


@dataclass(frozen=True, slots=True)
class WeaviateServer:
    """`url` is http; bulk requests and queries go to `grpc_port` on the same host."""

    url: str
    grpc_port: int


def start_weaviate(folder: Path) -> WeaviateServer:
    """Start a server with its data in `folder`/weaviate. Ready after 8 s on a quiet machine."""
    port, grpc_port, gossip, data = (str(free_port()) for _ in range(4))
    # One node elects itself only where its RPC port follows its Raft port; else it waits for peers for ever.
    raft = free_port(following=1)
    url = f"http://127.0.0.1:{port}"
    launch(
        "weaviate",
        [binary(WEAVIATE), "--host", "127.0.0.1", "--port", port, "--scheme", "http", *TIMEOUTS],
        folder=folder,
        environ={
            "PERSISTENCE_DATA_PATH": str(folder / "weaviate"),
            "GRPC_PORT": grpc_port,
            "CLUSTER_GOSSIP_BIND_PORT": gossip,
            "CLUSTER_DATA_BIND_PORT": data,
            "RAFT_PORT": str(raft),
            "RAFT_INTERNAL_RPC_PORT": str(raft + 1),
            "RAFT_JOIN": f"node1:{raft + 1}",
            **SINGLE_NODE,
        },
        ready=lambda: answers(f"{url}/v1/.well-known/ready"),
    )
    return WeaviateServer(url, int(grpc_port))


TIMEOUTS = ("--read-timeout=600s", "--write-timeout=600s")
SINGLE_NODE = {
    "CLUSTER_HOSTNAME": "node1",
    "CLUSTER_IN_LOCALHOST": "true",
    "CLUSTER_BIND_ADDR": "127.0.0.1",
    "CLUSTER_ADVERTISE_ADDR": "127.0.0.1",
    "RAFT_BOOTSTRAP_EXPECT": "1",
    "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "true",
    "DEFAULT_VECTORIZER_MODULE": "none",
    "API_BASED_MODULES_DISABLED": "true",
    "AUTOSCHEMA_ENABLED": "false",
    "DISABLE_TELEMETRY": "true",
    "GO_PROFILING_DISABLE": "true",
    # At 90 %, the default, a developer's full disk makes every test read-only.
    "DISK_USE_READONLY_PERCENTAGE": "97",
    "GOMEMLIMIT": "2GiB",
}
