"""Metrics, page and health over real HTTP: many at once, and a database that goes and comes back."""

import http.client
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import create_engine, make_url, text

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.operations.server import listening, serve
from ingest_platform.silo.model import EngineSettings, Organism
from ingest_platform_tests.contract.ledger_world import World, sighting
from ingest_platform_tests.status_world import models

MODELS = list(models().values())
ORGANISM = Organism(
    id="ebola",
    backend_url="http://127.0.0.1:9/ebola",
    output=Path("out"),
    engine=EngineSettings(kind="sentinel", exchange=Path("in")),
)


def get(address: str, path: str, method: str = "GET") -> tuple[int, str, http.client.HTTPMessage]:
    where = urlsplit(address)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, answer.headers


@pytest.fixture
def address(ledger: World) -> Iterator[str]:
    with listening(ledger.url, MODELS, port=0) as address:
        yield address


def test_each_address_answers_in_its_own_kind(address: str) -> None:
    """Prometheus refuses a text it does not know, and a browser shows one as source."""
    kinds = {path: get(address, path)[2]["Content-Type"] for path in ("/metrics", "/", "/healthz")}

    assert kinds["/metrics"].startswith("text/plain; version=0.0.4")
    assert kinds["/"] == "text/html; charset=utf-8"
    assert get(address, "/healthz")[:2] == (200, "ok\n")
    assert get(address, "/metrics", "HEAD")[:2] == (200, "")
    assert get(address, "/admin")[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(address: str, method: str) -> None:
    """The page is for everybody who may look; who may act uses the command."""
    assert get(address, "/", method)[0] == 501


def test_the_page_may_load_and_run_nothing(address: str) -> None:
    """A key or an error text that got through the escaping must still find a closed door."""
    headers = get(address, "/")[2]

    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "script-src" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_many_scrapes_at_once_each_get_the_whole_text(ledger: World, address: str) -> None:
    """Two Prometheus servers and a page that is open on a wall come in one moment."""
    ledger.ingested(sighting("f000"))

    with ThreadPoolExecutor(12) as many:
        answers = list(many.map(lambda _: get(address, "/metrics"), range(36)))

    assert {status for status, _, _ in answers} == {200}
    assert all('files_ingested_total{model="gfs"} 1.0' in body for _, body, _ in answers)
    assert all("ingest_scrape_duration_seconds" in body.splitlines()[-1] for _, body, _ in answers)


def test_a_database_that_goes_away_is_said_and_found_again(fresh_database: str) -> None:
    """Zeros that nobody read would pass for a quiet night."""
    Catalog.open(fresh_database).close()
    with listening(fresh_database, MODELS, [ORGANISM], port=0) as address:
        assert 'silo_poll_failures{organism="ebola"} 0.0' in get(address, "/metrics")[1]

        _lock_out(fresh_database, connections=False)
        away = {path: get(address, path) for path in ("/metrics", "/", "/healthz")}
        _lock_out(fresh_database, connections=True)

        for status, body, _ in away.values():
            assert status == 503
            assert "The ledger cannot be read" in body
            assert "files_ingested_total" not in body
            assert "ebola" not in body
        assert get(address, "/metrics")[0] == get(address, "/")[0] == get(address, "/healthz")[0] == 200


def _lock_out(url: str, *, connections: bool) -> None:
    """The server ends all sessions of the database and refuses new ones, or takes them again."""
    address = make_url(url)
    engine = create_engine(address.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as tx:
        tx.execute(text(f'ALTER DATABASE "{address.database}" WITH ALLOW_CONNECTIONS {connections}'))
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
        tx.execute(text(ended), {"name": address.database})
    engine.dispose()


def test_the_server_starts_before_its_database_and_finds_it(tmp_path: Path) -> None:
    """After a power cut nobody chooses the order in which the machines come up."""
    url = f"sqlite:///{tmp_path / 'disk' / 'ledger.db'}"
    with listening(url, MODELS, port=0) as address:
        status, body, _ = get(address, "/metrics")
        assert status == 503
        assert "INGEST_CATALOG_URL" in body

        (tmp_path / "disk").mkdir()

        assert get(address, "/metrics")[0] == 200


def test_serve_ends_when_it_is_told_to_and_frees_its_port(tmp_path: Path) -> None:
    """Else a supervisor kills it, and the next one finds the address taken."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    stop, ready = threading.Event(), threading.Event()
    addresses: list[str] = []

    def note(address: str) -> None:
        addresses.append(address)
        ready.set()

    with ThreadPoolExecutor(1) as threads:
        served = threads.submit(serve, url, MODELS, stop=stop, port=0, ready=note)
        assert ready.wait(60)
        assert get(addresses[0], "/healthz")[0] == 200
        stop.set()
        served.result(60)

    port = urlsplit(addresses[0]).port or 0
    with listening(url, MODELS, port=port) as again:
        assert get(again, "/healthz")[0] == 200


def test_it_listens_on_ipv6_too(tmp_path: Path) -> None:
    """Clusters that have nothing else exist."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with listening(url, MODELS, host="::1", port=0) as address:
        assert address.startswith("http://[::1]:")
        assert get(address, "/healthz")[0] == 200


def test_a_taken_port_is_an_error(address: str, tmp_path: Path) -> None:
    """Else two servers share the scrapes, each with its own truth."""
    taken = urlsplit(address).port or 0

    with pytest.raises(OSError, match="Address already in use"), listening("sqlite://", MODELS, port=taken):
        raise AssertionError("both listen")
