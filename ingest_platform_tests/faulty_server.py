"""An S3-like server inside the test that fails as it is told: refusals, short bodies, resets, drips.

Serves GET (ranges, If-Match), HEAD, ListObjectsV2 and deletions, path-style; signatures are not looked at.
A test scripts it with a rule: a function that sees each GET and HEAD before it is answered and returns the
fault to inject, or None.
"""

import hashlib
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

from ingest_platform_tests.loopback import serving


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked, in order of arrival."""

    number: int
    method: str
    bucket: str
    key: str  # "" for a listing
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    seconds: float  # since the server started

    @property
    def range(self) -> tuple[int, int] | None:
        """First and last byte asked for."""
        text = self.headers.get("range")
        first, last = text.removeprefix("bytes=").split("-") if text else ("", "")
        return (int(first), int(last)) if text else None


@dataclass(frozen=True, slots=True)
class Refuse:
    """An error answer. `retry_after` as it goes into the header."""

    status: int = 503
    retry_after: str | None = None
    body: bytes = b"<Error><Code>SlowDown</Code></Error>"


@dataclass(frozen=True, slots=True)
class WholeBody:
    """Ignore the range: 200 with everything."""


@dataclass(frozen=True, slots=True)
class OtherRange:
    """206, but with bytes from elsewhere."""

    shift: int = 1


@dataclass(frozen=True, slots=True)
class Short:
    """Announce the whole body, send `bytes` fewer, and close."""

    bytes: int = 1


@dataclass(frozen=True, slots=True)
class Reset:
    """Break the connection with RST after this part of the body."""

    at: float = 0.5


@dataclass(frozen=True, slots=True)
class Drip:
    """Send `piece` bytes, wait, and so on."""

    piece: int = 16
    seconds: float = 0.02


@dataclass(frozen=True, slots=True)
class Replace:
    """Another version takes the key's place before this request is answered."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Garble:
    """As many bytes as there should be, one of them wrong."""

    at: float = 0.5


@dataclass(frozen=True, slots=True)
class Html:
    """200 and a web page, as a captive portal answers."""

    body: bytes = b"<html><body>Please log in</body></html>"


Fault = Refuse | WholeBody | OtherRange | Short | Reset | Drip | Replace | Garble | Html
Rule = Callable[[Request], Fault | None]


@dataclass(frozen=True, slots=True)
class Stored:
    body: bytes
    last_modified: datetime

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.body, usedforsecurity=False).hexdigest()}"'


@dataclass
class FaultyServer:
    """The server, seen from the test. Change `rule` at any time."""

    endpoint: str = ""
    rule: Rule = lambda _: None
    ignore_if_match: bool = False
    undeletable: set[str] = field(default_factory=set)  # keys that may be listed and read only
    page_keys: int = 1000
    think_seconds: float = 0.0  # before each answer, to let requests overlap
    requests: list[Request] = field(default_factory=list)
    most_at_once: int = 0
    buckets: dict[str, dict[str, Stored]] = field(default_factory=dict)
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _started: float = field(default_factory=time.monotonic)

    def put(
        self, bucket: str, key: str, body: bytes, last_modified: datetime = datetime(2026, 11, 21, tzinfo=UTC)
    ) -> str:
        """Store an object and return its ETag."""
        stored = Stored(body, last_modified)
        self.buckets.setdefault(bucket, {})[key] = stored
        return stored.etag

    def count(self, method: str = "GET") -> int:
        return sum(request.method == method for request in self.requests)

    def arrive(self, method: str, url: str, headers: dict[str, str]) -> Request:
        parts = urlsplit(url)
        _, bucket, *key = unquote(parts.path).split("/", 2)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            seconds = time.monotonic() - self._started
            request = Request(len(self.requests), method, bucket, "".join(key), query, headers, seconds)
            self.requests.append(request)
        return request

    def leave(self) -> None:
        with self._lock:
            self._at_once -= 1


@contextmanager
def faulty_server() -> Iterator[FaultyServer]:
    """A server on a free port of loopback, stopped at exit."""
    state = FaultyServer()
    with serving(_handler(state)) as state.endpoint:
        yield state


def _handler(state: FaultyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            """DeleteObjects: 200, with the refusals inside."""
            request = self._arrived()
            body = self.rfile.read(int(request.headers["content-length"])).decode()
            keys = [unescape(key) for key in re.findall(r"<Key>(.*?)</Key>", body)]
            for key in set(keys) - state.undeletable:
                state.buckets[request.bucket].pop(key, None)
            self._send(200, _deletion(keys, state.undeletable))
            state.leave()

        def _arrived(self) -> Request:
            return state.arrive(self.command, self.path, {n.lower(): v for n, v in self.headers.items()})

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _answer(self) -> None:
            request = self._arrived()
            try:
                time.sleep(state.think_seconds)
                fault = state.rule(request)
                if isinstance(fault, Replace):
                    # In the same second: only the ETag tells the two apart.
                    at = state.buckets[request.bucket][request.key].last_modified
                    state.put(request.bucket, request.key, fault.body, at)
                self._respond(request, fault)
            finally:
                state.leave()

        def _respond(self, request: Request, fault: Fault | None) -> None:
            match fault:
                case Refuse(status, retry_after, body):
                    extra = {"Retry-After": retry_after} if retry_after is not None else {}
                    return self._send(status, body, extra)
                case Html(body):
                    return self._send(200, body, {"Content-Type": "text/html"})
            bucket = state.buckets.get(request.bucket)
            if bucket is None:
                return self._send(404, b"<Error><Code>NoSuchBucket</Code></Error>")
            if not request.key:
                return self._send(200, _listing(bucket, request.query, state.page_keys))
            stored = bucket.get(request.key)
            if stored is None:
                return self._send(404, b"<Error><Code>NoSuchKey</Code></Error>")
            asked = request.headers.get("if-match")
            if asked and asked != stored.etag and not state.ignore_if_match:
                return self._send(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return self._send_object(request, stored, fault)

        def _send_object(self, request: Request, stored: Stored, fault: Fault | None) -> None:
            size = len(stored.body)
            extra = {
                "ETag": stored.etag,
                "Last-Modified": format_datetime(stored.last_modified, usegmt=True),
                "Accept-Ranges": "bytes",
            }
            span = None if isinstance(fault, WholeBody) else request.range
            if span is None:
                return self._send(200, stored.body, extra, fault)
            if span[0] >= size:
                return self._send(416, b"<Error><Code>InvalidRange</Code></Error>")
            shift = fault.shift if isinstance(fault, OtherRange) else 0
            first, last = span[0] + shift, min(span[1] + shift, size - 1)
            extra["Content-Range"] = f"bytes {first}-{last}/{size}"
            return self._send(206, stored.body[first : last + 1], extra, fault)

        def _send(
            self, status: int, body: bytes, extra: dict[str, str] | None = None, fault: Fault | None = None
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(extra or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            match fault:
                case Short(missing):
                    self.wfile.write(body[: len(body) - missing])
                    self.close_connection = True
                case Reset(at):
                    self.wfile.write(body[: int(len(body) * at)])
                    self._reset()
                case Garble(at):
                    wrong = int(len(body) * at)
                    self.wfile.write(body[:wrong] + bytes([body[wrong] ^ 0xFF]) + body[wrong + 1 :])
                case Drip(piece, seconds):
                    for at_byte in range(0, len(body), piece):
                        self.wfile.write(body[at_byte : at_byte + piece])
                        time.sleep(seconds)
                case _:
                    self.wfile.write(body)

        def _reset(self) -> None:
            # Lingering for 0 seconds makes close send RST; detached, because the stream objects hold it open.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
            self.close_connection = True

    return Handler


def _deletion(keys: list[str], undeletable: set[str]) -> bytes:
    parts = (
        f"<Error><Key>{escape(key)}</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
        if key in undeletable
        else f"<Deleted><Key>{escape(key)}</Key></Deleted>"
        for key in keys
    )
    return f"<DeleteResult>{''.join(parts)}</DeleteResult>".encode()


def _folders(prefix: str, keys: list[str]) -> bytes:
    """The answer to a listing with a delimiter: what lies directly below, as prefixes, on one page."""
    below = dict.fromkeys(key[: key.find("/", len(prefix)) + 1] for key in keys if "/" in key[len(prefix) :])
    folders = "".join(f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>" for key in below)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>false</IsTruncated>{folders}</ListBucketResult>"
    ).encode()


def _listing(bucket: dict[str, Stored], query: dict[str, str], page_keys: int) -> bytes:
    """A ListObjectsV2 answer; the continuation token is the last key of the page before."""
    prefix = query.get("prefix", "")
    after = query.get("continuation-token", query.get("start-after", ""))
    # list(): a test may put an object at this moment.
    keys = sorted(key for key in list(bucket) if key.startswith(prefix) and key > after)
    if "delimiter" in query:
        return _folders(prefix, keys)
    page = keys[: min(page_keys, int(query.get("max-keys", page_keys)))]
    truncated = len(page) < len(keys)
    entries = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>{bucket[key].last_modified:%Y-%m-%dT%H:%M:%S}.000Z"
        f"</LastModified><ETag>{escape(bucket[key].etag, {chr(34): '&quot;'})}</ETag>"
        f"<Size>{len(bucket[key].body)}</Size></Contents>"
        for key in page
    )
    token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if truncated else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{str(truncated).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
    ).encode()
