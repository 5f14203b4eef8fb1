"""A webhook's receiver on loopback: keeps what it was told, answers as the test says."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from ingest_platform_tests.loopback import serving

SECRET = "T0/B0/xoxb-very-secret"  # noqa: S105


@dataclass
class Receiver:
    """What came, in order. `answers`: status for each request, None hangs up after it; the last one stays."""

    port: int
    answers: list[int | None]
    requests: list[tuple[str, str]] = field(default_factory=list)  # method, path
    came: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{SECRET}"

    @property
    def events(self) -> list[tuple[str, str]]:
        return [(told["event"], told["name"]) for told in self.came]

    def next_answer(self) -> int | None:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def receiver(*answers: int | None, port: int = 0) -> Iterator[Receiver]:
    """Listens until the block ends; `port` 0 takes a free one. Without `answers` it takes everything."""
    with serving(_handler(lambda: told), port=port) as url:
        told = Receiver(int(url.rpartition(":")[2]), list(answers) or [200])
        yield told


@contextmanager
def silent_receiver() -> Iterator[str]:
    """Takes connections and never says a word. Its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/{SECRET}"


def _handler(receiver: Callable[[], Receiver]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def do_GET(self) -> None:
            self._answer(None)

        def _answer(self, body: dict[str, Any] | None) -> None:
            told = receiver()
            told.requests.append((self.command, self.path))
            if body is not None:
                told.came.append(body)
            status = told.next_answer()
            if status is None:
                self.close_connection = True
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "/moved")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    return Handler
