"""One Loculus backend: the conditional GET of an organism's released sequences, its bytes as they were sent.

Judges the head of an answer and the way its bytes arrive: whatever is wrong with those is SourceUnavailable,
for it says nothing about the data. The bytes themselves are judged by `released`.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import urllib3
from urllib3.exceptions import HTTPError

from ingest_platform.errors import SourceUnavailable
from ingest_platform.silo.model import Timeouts
from ingest_platform.silo.stopping import NEVER, heeding, unless_stopped
from ingest_platform.storage.patience import retry_after_seconds

PATH = "/get-released-data?compression=zstd"
PIECE_BYTES = 1 << 17  # a compressed record is 300 bytes; one system call takes what the socket holds
REFUSAL_BYTES = 500  # of an error page; the rest explains nothing
STANDS = "Nothing was used, the published index stays; it is tried again."


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a 200 says."""

    etag: str  # byte for byte, with its quotes and W/: the backend compares it as text
    announced: str | None  # x-total-records as it came
    # A 200 with the very ETag that was sent: a proxy's weak ETag, which upstream never takes for its own.
    # Each poll is a full download then; only the content hash saves the engine's time.
    unheeded: bool


@dataclass(frozen=True, slots=True)
class Body:
    """A 200 whose bytes are on their way. `pieces` can be taken once, while the connection is open."""

    head: Head
    pieces: Iterator[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Backend:
    """Asks for one organism. Shared by threads."""

    organism: str  # for messages
    url: str  # with the organism: http://host:8079/<organism>
    pool: urllib3.PoolManager
    timeouts: Timeouts
    clock: Callable[[], float] = time.monotonic  # seconds
    stop: threading.Event = field(default=NEVER, repr=False)

    def changed(self, known: str | None) -> Head | None:
        """The head of the present release, or None where it still has the ETag `known`.

        Costs the backend a query and no stream: the connection is closed behind the head. No HEAD
        request, which upstream answers by the same query. SourceUnavailable, Stopped.
        """
        with self.released(known) as body:
            return body.head if body else None

    @contextmanager
    def released(self, known: str | None) -> Iterator[Body | None]:
        """The release, or None where it still has the ETag `known`; None for `known` asks without condition.

        SourceUnavailable for any other answer than 200 with an ETag, or 304 to a condition; and, from
        `pieces`, if the connection breaks, ends early, or the total deadline passes. Stopped.
        """
        deadline = self.clock() + self.timeouts.total_seconds
        response = self._ask(known)
        try:
            head = self._judge(response, known)
            what = f"{self.organism}: {self.url}"
            pieces = arriving(response, what=what, deadline=deadline, clock=self.clock)
            heeded = heeding(self.stop, pieces, what=self.organism, cut=response.shutdown)
            yield Body(head, heeded) if head else None
        finally:
            # A connection with an unread body would give the rest of it to the next request; one whose empty
            # body was never asked for would refuse the next request.
            if response.length_remaining == 0:
                response.drain_conn()
            else:
                response.close()
            response.release_conn()

    def _ask(self, known: str | None) -> urllib3.BaseHTTPResponse:
        headers = {"Accept-Encoding": "zstd"} | ({"If-None-Match": known} if known is not None else {})
        timeout = urllib3.Timeout(connect=self.timeouts.connect_seconds, read=self.timeouts.read_seconds)

        def request() -> urllib3.BaseHTTPResponse:
            return self.pool.request(
                "GET",
                self.url + PATH,
                headers=headers,
                timeout=timeout,
                preload_content=False,
                redirect=False,
                retries=False,
            )

        try:
            return unless_stopped(self.stop, request, what=self.organism)
        except HTTPError as error:
            raise SourceUnavailable(
                f"{self.organism}: no answer from {self.url}: {error}. {STANDS}"
            ) from error

    def _judge(self, response: urllib3.BaseHTTPResponse, known: str | None) -> Head | None:
        if response.status == 304:
            if known is None:
                raise self._refusal(response, "nothing was said to be known, so nothing can be unchanged")
            return None
        if response.status != 200:
            raise self._refusal(response, self._why(response))
        etag = response.headers.get("ETag")
        if not etag:
            raise self._refusal(response, "it has no ETag, by which a release is known")
        return Head(etag, response.headers.get("x-total-records"), unheeded=etag == known)

    def _why(self, response: urllib3.BaseHTTPResponse) -> str:
        """What the body of a refusal says, or where a redirect leads."""
        if location := response.headers.get("Location"):
            there = without_query(location)
            return f"it leads to {there}; name that address in the configuration if it is the backend"
        try:
            said = response.read1(REFUSAL_BYTES) if response.length_remaining != 0 else b""
        except HTTPError as error:
            return f"its text broke off: {error}"
        return f"it says {said.decode(errors='replace')!r}" if said else "it says nothing"

    def _refusal(self, response: urllib3.BaseHTTPResponse, why: str) -> SourceUnavailable:
        wish = retry_after_seconds(response.headers.get("Retry-After"), datetime.now(UTC))
        return SourceUnavailable(
            f"{self.organism}: {self.url} answered {response.status} where 200 with an ETag, or 304 to a"
            f" known one, was expected: {why}. {STANDS}",
            retry_after=wish,
        )


def without_query(text: str) -> str:
    """For messages and the ledger: what stands behind the ? of an address may be a secret."""
    return re.sub(r"\?[^\s'\")]+", "?…", text)


def arriving(
    response: urllib3.BaseHTTPResponse,
    *,
    what: str,
    deadline: float,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[bytes]:
    """The body's bytes as they come, not decoded. SourceUnavailable: broken off, or not done by `deadline`.

    The read time-out begins anew with every byte, so a stream that drips needs the deadline.
    """
    got = 0
    try:
        while piece := response.read1(PIECE_BYTES, decode_content=False):
            got += len(piece)
            if clock() > deadline:
                raise SourceUnavailable(
                    f"{what}: only {got:,} bytes came before the deadline; given up. {STANDS}"
                )
            yield piece
    except HTTPError as error:
        raise SourceUnavailable(
            f"{what}: the transfer broke off after {got:,} bytes: {error}. {STANDS}"
        ) from error
