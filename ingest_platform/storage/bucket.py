"""What a source's bucket holds: listings, and exact byte ranges of one version of an object.

Reads only. Two kinds of bucket: S3 over HTTP (public or signed), and a mirror in a local folder.
A range is returned whole and of the version asked for, or an error says why not; an empty listing
means that there is nothing, never that the listing failed.

Listings go over the same HTTP as ranges, not through obstore: obstore lists whole folders only (a
prefix like `gfs.t00z.pgrb2.0p25.f` would fetch all of `atmos/`), hides Retry-After, and cannot be counted.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol
from urllib.parse import quote, unquote, urlencode, urlsplit
from xml.etree import ElementTree

from ingest_platform.errors import Damaged, PermanentError, SourceChanged, SourceUnavailable
from ingest_platform.storage.credentials import Credentials
from ingest_platform.storage.http import STALL_SECONDS, Answer, HttpClient, HttpTally, open_pool
from ingest_platform.storage.patience import Patience

NEXT_VERSION = "Nothing was used; the new version is read next."
PAGE_KEYS = 1000  # as S3: a page of a mirror is as long as a page of the real bucket


@dataclass(frozen=True, slots=True)
class Listed:
    """One object as its bucket describes it. The ETag is kept as the server writes it, quotes included."""

    key: str
    etag: str
    size_bytes: int
    last_modified: datetime


Page = tuple[list[Listed], str | None]  # with the token of the next page


class Bucket(Protocol):
    """A source bucket. Every method may be called from many threads at once."""

    @property
    def name(self) -> str: ...

    def list(self, prefix: str, *, start_after: str | None = None) -> Iterator[list[Listed]]:
        """Pages of the objects whose key begins with `prefix` and sorts after `start_after`, in key order.

        SourceUnavailable if a page cannot be had; PermanentError if the bucket is missing or closed.
        """
        ...

    def find(self, key: str) -> Listed | None:
        """The object's description; None only if the bucket says that it has no such object."""
        ...

    def read(self, key: str, *, start: int, length: int, etag: str | None) -> bytes:
        """Exactly `length` bytes (at least one) from `start`, of the version `etag`.

        SourceChanged if the object is another version by now; Damaged if it is gone or ends before;
        SourceUnavailable if the bucket does not answer with this range; PermanentError if it refuses.
        """
        ...

    def read_all(self, key: str, *, etag: str | None = None) -> tuple[bytes, Listed]:
        """A small object in one request, with its description. Errors as `read`."""
        ...


def open_bucket(
    name: str,
    *,
    endpoint: str | None,
    credentials: Credentials | None,
    region: str = "us-east-1",
    patience: Patience,
    tally: HttpTally | None = None,
    ca_file: Path | None = None,
    stall_seconds: float = STALL_SECONDS,
) -> Bucket:
    """The bucket `name`: on AWS without `endpoint`, below the folder of a file:// endpoint, else path-style.

    Without credentials requests are not signed, as public buckets want it. Opening asks nothing.
    """
    if endpoint is not None and urlsplit(endpoint).scheme == "file":
        return LocalBucket(name, Path(unquote(urlsplit(endpoint).path)))
    base_url = f"{endpoint.rstrip('/')}/{name}" if endpoint else f"https://{name}.s3.{region}.amazonaws.com"
    pool = open_pool(patience.parallel, ca_file)
    client = HttpClient(name, pool, patience, tally or HttpTally(), credentials, region, stall_seconds)
    return HttpBucket(name, base_url, client)


class HttpBucket:
    """A bucket behind the S3 API."""

    def __init__(self, name: str, base_url: str, client: HttpClient) -> None:
        self._name = name
        self._base_url = base_url
        self._client = client

    @property
    def name(self) -> str:
        return self._name

    def list(self, prefix: str, *, start_after: str | None = None) -> Iterator[list[Listed]]:
        asked = {"list-type": "2", "prefix": prefix}
        cursor = {"start-after": start_after} if start_after else {}
        while True:
            page, token = self._page(prefix, {**asked, **cursor})
            if page:
                yield page
            if token is None:
                return
            cursor = {"continuation-token": token}

    def find(self, key: str) -> Listed | None:
        answer = self._client.ask("HEAD", self._url(key), what=self._what(key))
        if answer.status == 404:
            return None
        if answer.status != 200:
            self._refuse(key, answer)
        return _described(self._what(key), key, answer, int(answer.headers.get("Content-Length", -1)))

    def read(self, key: str, *, start: int, length: int, etag: str | None) -> bytes:
        last = start + length - 1
        answer = self._client.ask(
            "GET",
            self._url(key),
            what=f"{self._what(key)}, bytes {start:,}-{last:,}",
            expected=206,
            headers={"Range": f"bytes={start}-{last}", **_if_match(etag)},
            check=lambda headers: _check_range(self._what(key), headers, start, last),
        )
        if answer.status != 206:
            self._refuse(key, answer)
        self._check_version(key, answer, etag)
        if len(answer.body) != length:
            raise Damaged(
                f"{self._what(key)}: ends after {start + len(answer.body):,} bytes, bytes up to {last:,} were"
                " expected. Nothing was used. It is tried again; a new upload heals it."
            )
        return answer.body

    def read_all(self, key: str, *, etag: str | None = None) -> tuple[bytes, Listed]:
        answer = self._client.ask("GET", self._url(key), what=self._what(key), headers=_if_match(etag))
        if answer.status != 200:
            self._refuse(key, answer)
        self._check_version(key, answer, etag)
        return answer.body, _described(self._what(key), key, answer, len(answer.body))

    def _page(self, prefix: str, query: Mapping[str, str]) -> Page:
        what = f"listing of {self._name}/{prefix}"
        url = f"{self._base_url}/?{urlencode(sorted(query.items()), quote_via=quote)}"
        answer = self._client.ask("GET", url, what=what)
        if answer.status != 200:
            raise PermanentError(
                f"{what}: refused with {answer.status}: {_excerpt(answer.body)}. Nothing was listed."
                f" Check that the bucket {self._name} exists and that these credentials may list it."
            )
        return _parse_page(answer.body, what)

    def _refuse(self, key: str, answer: Answer) -> NoReturn:
        what = self._what(key)
        match answer.status:
            case 404:
                raise Damaged(f"{what}: the object is gone (404). What was published of it stays.")
            case 412:
                raise SourceChanged(f"{what}: replaced while it was read (412). {NEXT_VERSION}")
            case 416:
                raise Damaged(f"{what}: shorter than its listing said (416). Nothing was used; tried again.")
        raise PermanentError(
            f"{what}: refused with {answer.status}: {_excerpt(answer.body)}. Nothing was used."
            " Check the bucket's region, policy and credentials."
        )

    def _check_version(self, key: str, answer: Answer, etag: str | None) -> None:
        # Some S3 look-alikes ignore If-Match; their answer still says which version it is.
        found = answer.headers.get("ETag")
        if etag and found and found != etag:
            raise SourceChanged(f"{self._what(key)}: is {found}, {etag} was asked for. {NEXT_VERSION}")

    def _url(self, key: str) -> str:
        return f"{self._base_url}/{quote(key, safe='/~')}"

    def _what(self, key: str) -> str:
        return f"{self._name}/{key}"


class LocalBucket:
    """A mirror: the folder `name` under `root`, a file for each key. Links are not followed."""

    def __init__(self, name: str, root: Path) -> None:
        self._name = name
        self._folder = (root / name).resolve()

    @property
    def name(self) -> str:
        return self._name

    def list(self, prefix: str, *, start_after: str | None = None) -> Iterator[list[Listed]]:
        if not self._folder.is_dir():
            raise PermanentError(
                f"mirror bucket {self._name}: {self._folder} is no folder. Nothing was listed."
                " Create or mount it."
            )
        try:
            found = sorted(_files_below(self._folder, prefix), key=lambda listed: listed.key)
        except OSError as error:
            raise SourceUnavailable(
                f"mirror bucket {self._name}: {prefix} cannot be listed: {error}"
            ) from error
        wanted = [listed for listed in found if start_after is None or listed.key > start_after]
        for first in range(0, len(wanted), PAGE_KEYS):
            yield wanted[first : first + PAGE_KEYS]

    def find(self, key: str) -> Listed | None:
        try:
            with self._open(key) as file:
                return _stat(key, file)
        except FileNotFoundError:
            return None

    def read(self, key: str, *, start: int, length: int, etag: str | None) -> bytes:
        body, _ = self._read(key, start, length, etag)
        if len(body) != length:
            raise Damaged(
                f"{self._name}/{key}: ends after {start + len(body):,} bytes, {start + length:,} were"
                " expected. Nothing was used. It is tried again; a new file heals it."
            )
        return body

    def read_all(self, key: str, *, etag: str | None = None) -> tuple[bytes, Listed]:
        return self._read(key, 0, -1, etag)

    def _read(self, key: str, start: int, length: int, etag: str | None) -> tuple[bytes, Listed]:
        try:
            with self._open(key) as file:
                before = _stat(key, file)
                file.seek(start)
                body = file.read(length)
                after = _stat(key, file)
        except FileNotFoundError as error:
            raise Damaged(f"{self._name}/{key}: the file is gone. What was published of it stays.") from error
        except OSError as error:
            raise SourceUnavailable(f"{self._name}/{key}: cannot be read: {error}") from error
        if before != after or (etag and before.etag != etag):
            raise SourceChanged(
                f"{self._name}/{key}: is {after.etag}, {etag or before.etag} was asked for. {NEXT_VERSION}"
            )
        return body, before

    def _open(self, key: str) -> BinaryIO:
        path = Path(os.path.normpath(self._folder / key))
        if not key or path.resolve() != path or self._folder not in path.parents:
            raise PermanentError(
                f"mirror bucket {self._name}: key {key!r} leads out of {self._folder}. Nothing was read."
            )
        try:
            return path.open("rb")
        except (IsADirectoryError, NotADirectoryError) as error:
            raise FileNotFoundError(key) from error
        except PermissionError as error:
            raise PermanentError(
                f"{self._name}/{key}: may not be read: {error}. Correct its permissions."
            ) from error


def _check_range(what: str, headers: Mapping[str, str], start: int, last: int) -> None:
    found = headers.get("Content-Range", "")
    # The end may be smaller: the object is shorter than believed, which the caller tells by the length.
    matched = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", found)
    first, end = (int(matched[1]), int(matched[2])) if matched else (-1, -1)
    announced = int(headers.get("Content-Length", end - first + 1))
    if first != start or end > last or announced != end - first + 1:
        raise SourceUnavailable(
            f"{what}: bytes {start}-{last} were asked for, the answer holds {found!r}, {announced:,} bytes."
            " Nothing was used."
        )


def _if_match(etag: str | None) -> dict[str, str]:
    return {"If-Match": etag} if etag else {}


def _described(what: str, key: str, answer: Answer, size_bytes: int) -> Listed:
    modified = answer.headers.get("Last-Modified")
    if modified is None or size_bytes < 0:
        raise SourceUnavailable(
            f"{what}: the answer lacks Last-Modified or Content-Length. Nothing was used."
        )
    return Listed(key, answer.headers.get("ETag", ""), size_bytes, parsedate_to_datetime(modified))


def _parse_page(body: bytes, what: str) -> Page:
    """Objects and continuation token of a ListObjectsV2 answer; SourceUnavailable if it is anything else."""
    try:
        # expat bounds entity expansion since 2.4.1, and the document is a bucket's that we chose.
        root = ElementTree.fromstring(body)  # noqa: S314
        if not root.tag.endswith("ListBucketResult"):
            raise ValueError(f"the answer is a {root.tag} document")
        listed = [
            Listed(
                _text(entry, "Key"),
                entry.findtext("{*}ETag", ""),
                int(_text(entry, "Size")),
                datetime.fromisoformat(_text(entry, "LastModified")),
            )
            for entry in root.iterfind("{*}Contents")
        ]
        truncated = _text(root, "IsTruncated") == "true"
        return listed, _text(root, "NextContinuationToken") if truncated else None
    except (ElementTree.ParseError, ValueError) as error:
        raise SourceUnavailable(f"{what}: not a listing ({error}): {_excerpt(body)}") from error


def _text(element: ElementTree.Element, tag: str) -> str:
    text = element.findtext(f"{{*}}{tag}")
    if text is None:
        raise ValueError(f"no {tag} in it")
    return text


def _excerpt(body: bytes) -> str:
    return " ".join(body[:300].decode("utf-8", "replace").split()) or "no explanation"


def _files_below(folder: Path, prefix: str) -> Iterator[Listed]:
    """Regular files whose path below `folder` begins with `prefix`; folders beside it are not entered."""
    start = prefix.rpartition("/")[0]
    if start and ".." in Path(start).parts:
        raise PermanentError(f"{folder}: prefix {prefix!r} leads out of it. Nothing was listed.")
    pending = [start]
    while pending:
        parent = pending.pop()
        try:
            with os.scandir(folder / parent) as entries:
                found = list(entries)
        except (FileNotFoundError, NotADirectoryError):
            continue  # as in a bucket, where folders exist only as parts of keys
        for entry in found:
            key = f"{parent}/{entry.name}" if parent else entry.name
            if entry.is_dir(follow_symlinks=False) and f"{key}/".startswith(prefix[: len(key) + 1]):
                pending.append(key)
            elif entry.is_file(follow_symlinks=False) and key.startswith(prefix):
                yield _listed(key, entry.stat(follow_symlinks=False))


def _stat(key: str, file: BinaryIO) -> Listed:
    return _listed(key, os.fstat(file.fileno()))


def _listed(key: str, status: os.stat_result) -> Listed:
    # The inode tells a replaced file from a touched one when both were written within one clock tick.
    etag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
    return Listed(key, etag, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))
