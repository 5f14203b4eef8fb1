"""One request to a source's server: signed if there are keys, tried again with patience, its body whole.

Knows status codes and bodies, nothing of keys and objects. An answer is complete or an error: a body
shorter than announced, a broken connection and a stream that drips are SourceUnavailable.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from ingest_platform.errors import SourceUnavailable
from ingest_platform.storage.credentials import Credentials
from ingest_platform.storage.patience import Patience, retry_after_seconds

CONNECT_SECONDS = 5.0  # a TCP handshake across an ocean takes 0.3 s; a lost SYN is sent again after 1 and 3 s
STALL_SECONDS = 30.0  # S3 sends the first byte within 0.2 s; a stream silent for this long is dead
# A read time-out restarts with every byte, so a dripping stream needs a deadline of its own. A stream
# gives 18 MB/s and more; at a hundredth of that another connection is the better choice.
SLOWEST_BYTES_PER_SECOND = 200_000
PIECE_BYTES = 1 << 20  # one system call takes what the socket holds, never more
REFUSAL_BYTES = 2000  # an S3 error document is about 300 bytes; the rest of a web page explains nothing


class HttpTally:
    """Answers by bucket and code ("206", "503", "error" where none came), until the ledger has them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: Counter[tuple[str, str]] = Counter()

    def count(self, bucket: str, code: str) -> None:
        with self._lock:
            self._answers[bucket, code] += 1

    @contextmanager
    def taken(self) -> Iterator[Mapping[tuple[str, str], int]]:
        """What came since the last time, for the block to move elsewhere; put back if it fails."""
        with self._lock:
            answers, self._answers = self._answers, Counter()
        try:
            yield answers
        except BaseException:
            with self._lock:
                self._answers += answers
            raise


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. Of a refusal (4xx) only the beginning of the body is kept."""

    status: int
    headers: Mapping[str, str]  # names in any case
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpClient:
    """Asks for one bucket. Shared by threads."""

    bucket: str  # for the tally
    pool: urllib3.PoolManager
    patience: Patience
    tally: HttpTally
    credentials: Credentials | None
    region: str
    stall_seconds: float = STALL_SECONDS

    def ask(
        self,
        method: str,
        url: str,
        *,
        what: str,
        expected: int = 200,
        headers: Mapping[str, str] | None = None,
        check: Callable[[Mapping[str, str]], None] = lambda _: None,
    ) -> Answer:
        """The answer `expected`, or a refusal (3xx, 4xx) for the caller to judge.

        Asked again while the server is tired (5xx, 429, 408), the network breaks, another success than
        `expected` comes, or `check`, called with the headers before the body is read, raises
        SourceUnavailable; when patience ends, that error.
        """
        host = urlsplit(url).netloc
        return self.patience.call(host, lambda: self._once(method, url, what, expected, headers or {}, check))

    def _once(
        self,
        method: str,
        url: str,
        what: str,
        expected: int,
        headers: Mapping[str, str],
        check: Callable[[Mapping[str, str]], None],
    ) -> Answer:
        response = self._send(method, url, what, headers)
        self.tally.count(self.bucket, str(response.status))
        try:
            _raise_if_tired(response, what)
            if 300 <= response.status < 500:
                return Answer(response.status, response.headers, self._body(response, what)[:REFUSAL_BYTES])
            if response.status != expected:
                raise SourceUnavailable(
                    f"{what}: answered {response.status} where {expected} was asked for. Nothing was used."
                )
            check(response.headers)
            return Answer(response.status, response.headers, self._body(response, what))
        finally:
            # A connection with an unread body would give the rest of it to the next request.
            if response.length_remaining != 0:
                response.close()
            response.release_conn()

    def _send(self, method: str, url: str, what: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        # Compression on the way would make Content-Length and ranges speak of other bytes.
        asked = {**headers, "Accept-Encoding": "identity"}
        if self.credentials:
            asked |= signature(method, url, self.credentials, self.region)
        try:
            return self.pool.request(
                method, url, headers=asked, preload_content=False, redirect=False, retries=False
            )
        except HTTPError as error:
            self.tally.count(self.bucket, "error")
            raise SourceUnavailable(f"{what}: no answer from {urlsplit(url).netloc}: {error}") from error

    def _body(self, response: urllib3.BaseHTTPResponse, what: str) -> bytes:
        announced = response.length_remaining or 0
        deadline = time.monotonic() + self.stall_seconds + announced / SLOWEST_BYTES_PER_SECOND
        pieces: list[bytes] = []
        try:
            while piece := response.read1(PIECE_BYTES):
                pieces.append(piece)
                if time.monotonic() > deadline:
                    got = sum(map(len, pieces))
                    raise SourceUnavailable(f"{what}: dripped {got:,} of {announced:,} bytes; given up")
        except HTTPError as error:
            self.tally.count(self.bucket, "error")
            got = sum(map(len, pieces))
            raise SourceUnavailable(
                f"{what}: broke off after {got:,} of {announced:,} bytes: {error}. Nothing was used."
            ) from error
        return b"".join(pieces)


def open_pool(parallel: int, ca_file: Path | None) -> urllib3.PoolManager:
    """Connections for `parallel` threads a host; certificates checked against `ca_file` or the system's."""
    return urllib3.PoolManager(
        maxsize=parallel,
        timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=STALL_SECONDS),
        ca_certs=str(ca_file) if ca_file else None,
    )


def signature(method: str, url: str, credentials: Credentials, region: str) -> dict[str, str]:
    """SigV4 headers for a request without a body, dated by this moment: make them anew for each attempt."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials as Keys

    request = AWSRequest(method=method, url=url)
    keys = Keys(credentials.access_key_id, credentials.secret_access_key, credentials.session_token)
    S3SigV4Auth(keys, "s3", region).add_auth(request)
    return dict(request.headers.items())


def _raise_if_tired(response: urllib3.BaseHTTPResponse, what: str) -> None:
    if response.status >= 500 or response.status in (408, 429):
        wish = retry_after_seconds(response.headers.get("Retry-After"), datetime.now(UTC))
        raise SourceUnavailable(f"{what}: the server answered {response.status}", retry_after=wish)
