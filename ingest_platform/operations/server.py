"""Serves metrics to Prometheus and the status page to people, over HTTP. Reads the ledger, changes nothing.

/metrics   Prometheus' text format, or 503 with the reason: never numbers that nobody read
/          the status page
/healthz   200 "ok" while the ledger answers, else 503 with the reason
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

from sqlalchemy.exc import SQLAlchemyError

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.errors import PermanentError
from ingest_platform.operations import metrics, page
from ingest_platform.silo.model import Organism
from ingest_platform.weather.model import Model

log = logging.getLogger(__name__)

# The page names buckets, partitions and errors: nobody's business outside this machine unless told otherwise.
HOST = "127.0.0.1"
# Free on a machine that also runs Prometheus (9090), its node exporter (9100) and Dagster (3000).
PORT = 9108
# A client that says nothing must not hold its thread for ever; Prometheus gives up after 10 s by default.
CLIENT_SECONDS = 30
# Nothing is loaded from anywhere, and nothing on the page may run.
SAFETY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

Answer = tuple[HTTPStatus, str, bytes]  # status, content type, body


def serve(
    catalog_url: str,
    models: Sequence[Model],
    organisms: Sequence[Organism] = (),
    *,
    stop: threading.Event,
    host: str = HOST,
    port: int = PORT,
    dagster_url: str | None = None,
    ready: Callable[[str], None] = lambda _url: None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Serve until `stop` is set; `ready` is called with the address once it is listened on.

    Starts without the ledger too, and finds it when it comes. `port` 0: any free one. Raises OSError if the
    address is taken.
    """
    with listening(
        catalog_url, models, organisms, host=host, port=port, dagster_url=dagster_url, clock=clock
    ) as address:
        ready(address)
        stop.wait()


@contextmanager
def listening(
    catalog_url: str,
    models: Sequence[Model],
    organisms: Sequence[Organism] = (),
    *,
    host: str = HOST,
    port: int = PORT,
    dagster_url: str | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Iterator[str]:
    """The same in a thread, for as long as the block lasts: its address."""
    ledger = _Ledger(catalog_url)
    pages: Mapping[str, Callable[[Catalog], Answer]] = {
        "/metrics": lambda catalog: _metrics(metrics.render(catalog, models, organisms, now=clock())),
        "/": lambda catalog: _html(
            page.page(catalog, models, organisms, now=clock(), dagster_url=dagster_url)
        ),
        "/healthz": _healthy,
    }
    server = _Server(host, port, _handler(pages, ledger))
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        ledger.close()


class _Ledger:
    """The catalog, shared by all requests; opened by the first that finds the database there."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._catalog: Catalog | None = None

    def get(self) -> Catalog:
        with self._lock:
            if self._catalog is None:
                self._catalog = Catalog.open(self._url)
            return self._catalog

    def close(self) -> None:
        with self._lock:
            if self._catalog is not None:
                self._catalog.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Many scrapers and a page that reloads itself may come in one moment; the default of 5 refuses some.
    request_queue_size = 64

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the DNS for the host's name, which takes seconds where there is none.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - its signature
        """A client that hangs up is its own business; anything else is an error of ours."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            log.exception("a request failed", extra={"client": client_address})


def _handler(
    pages: Mapping[str, Callable[[Catalog], Answer]], ledger: _Ledger
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = CLIENT_SECONDS
        server_version = "ingest"
        sys_version = ""

        def do_GET(self) -> None:
            self._send(_answer(pages, ledger, self.path), with_body=True)

        def do_HEAD(self) -> None:
            self._send(_answer(pages, ledger, self.path), with_body=False)

        def _send(self, answer: Answer, *, with_body: bool) -> None:
            status, kind, body = answer
            self.send_response(status)
            for name, value in (SAFETY | {"Content-Type": kind, "Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """A line a scrape would bury everything else."""

    return Handler


def _answer(pages: Mapping[str, Callable[[Catalog], Answer]], ledger: _Ledger, path: str) -> Answer:
    make = pages.get(path.partition("?")[0])
    if make is None:
        return _text(HTTPStatus.NOT_FOUND, f"Not here. There is {', '.join(pages)}.")
    try:
        return make(ledger.get())
    except (SQLAlchemyError, PermanentError) as error:
        log.warning("the ledger did not answer", extra={"path": path, "error": str(error)})
        return _text(HTTPStatus.SERVICE_UNAVAILABLE, _reason(error))


def _reason(error: Exception) -> str:
    """Without the statement and its values: they say nothing to who has to mend the database."""
    cause = getattr(error, "orig", None) or error
    return (
        f"The ledger cannot be read: {type(error).__name__}: {str(cause).strip()}\n"
        "Nothing is shown rather than something outdated. Ingestion waits too, and loses nothing. Start the "
        "database, or correct INGEST_CATALOG_URL; this server finds it again by itself."
    )


def _healthy(catalog: Catalog) -> Answer:
    catalog.has_published()
    return _text(HTTPStatus.OK, "ok")


def _text(status: HTTPStatus, text: str) -> Answer:
    return status, "text/plain; charset=utf-8", f"{text}\n".encode()


def _metrics(text: bytes) -> Answer:
    return HTTPStatus.OK, metrics.CONTENT_TYPE, text


def _html(text: str) -> Answer:
    return HTTPStatus.OK, "text/html; charset=utf-8", text.encode()
