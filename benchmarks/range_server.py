"""A folder of buckets behind as much of the S3 API as reading takes: listings, HEAD, GET, ranges, If-Match.

Bodies go by sendfile in a process of its own, so that no client's figures hold the server's work. Does
not paginate and checks no signature; correctness is tested elsewhere, here only speed counts.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import click

from benchmarks.measure import ROOT


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The endpoint of `folder/<bucket>/<key>`, served by a child process until the block ends."""
    command = [sys.executable, "-m", "benchmarks.range_server", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603 - ours
        assert server.stdout is not None  # noqa: S101 - a pipe was asked for
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body in one segment each; Nagle would hold the second until the first is acknowledged.
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    folder: ClassVar[Path]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def _answer(self, *, body: bool) -> None:
        url = urlsplit(self.path)
        if "list-type=2" in url.query:
            self._list(unquote(url.path).strip("/"), parse_qs(url.query).get("prefix", [""])[0])
            return
        try:
            with (self.folder / unquote(url.path).lstrip("/")).open("rb") as file:
                self._send(file.fileno(), body)
        except (FileNotFoundError, IsADirectoryError):
            self._head(404, 0)

    def _send(self, file: int, body: bool) -> None:
        status = os.fstat(file)
        if self.headers.get("If-Match", _etag(status)) != _etag(status):
            self._head(412, 0)
            return
        first, last, code = 0, status.st_size - 1, 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last, code = int(asked[1]), min(int(asked[2] or last), last), 206
        self._head(
            code,
            last + 1 - first,
            {
                "ETag": _etag(status),
                "Last-Modified": format_datetime(datetime.fromtimestamp(status.st_mtime, UTC), usegmt=True),
                "Accept-Ranges": "bytes",
                **({"Content-Range": f"bytes {first}-{last}/{status.st_size}"} if code == 206 else {}),
            },
        )
        self.wfile.flush()
        while body and first <= last:
            first += os.sendfile(self.connection.fileno(), file, first, last + 1 - first)

    def _list(self, bucket: str, prefix: str) -> None:
        root = self.folder / bucket
        keys = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        found = "".join(_contents(root, key) for key in keys if key.startswith(prefix))
        text = f"<ListBucketResult>{found}<IsTruncated>false</IsTruncated></ListBucketResult>".encode()
        self._head(200, len(text), {"Content-Type": "application/xml"})
        self.wfile.write(text)

    def _head(self, code: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(code)
        for name, value in {**(headers or {}), "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def _etag(status: os.stat_result) -> str:
    return f'"{status.st_mtime_ns:x}-{status.st_size:x}"'


def _contents(root: Path, key: str) -> str:
    status = (root / key).stat()
    moment = datetime.fromtimestamp(status.st_mtime, UTC).isoformat().replace("+00:00", "Z")
    fields = (
        f"<Key>{escape(key)}</Key><LastModified>{moment}</LastModified><ETag>{escape(_etag(status))}</ETag>"
    )
    return f"<Contents>{fields}<Size>{status.st_size}</Size></Contents>"


def main() -> None:
    """Serve the folder that the command line names; the port is the first line of output."""
    _Handler.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    click.echo(server.server_address[1])
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
