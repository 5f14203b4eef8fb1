"""A real redis-server on loopback that keeps nothing on disk."""

import socket
from pathlib import Path

from ingest_platform_tests.services.install import REDIS, program
from ingest_platform_tests.services.processes import free_port, launch


def start_redis(folder: Path) -> str:
    """Start a server; its URL."""
    port = free_port()
    launch(
        "redis",
        [program(REDIS), "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"],
        folder=folder,
        ready=lambda: _pings(port),
    )
    return f"redis://127.0.0.1:{port}/0"


def _pings(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
