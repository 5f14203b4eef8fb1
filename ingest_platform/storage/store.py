"""The published store: one root, a folder or an S3 prefix, below which every published thing has its uri.

Gives and takes bytes, hands out Icechunk storage, deletes trees. Decides nothing: the ledger says what is
wanted. A uri is `source/partition/name` and never leads out of the root; whatever else lies
there is somebody else's. What cannot be told for certain raises: only a plain 404 means absent.
"""

import errno
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, S3Store

from ingest_platform.errors import PermanentError, StoreUnavailable
from ingest_platform.settings import Settings
from ingest_platform.storage.credentials import Credentials
from ingest_platform.storage.local_folder import delete_folder, folders_in, unless_gone

if TYPE_CHECKING:
    import icechunk
    from obstore.store import ClientConfig, S3Config

URI_DEPTH = 3  # source/partition/name
# As the ledger makes them. A root may be shared, and what has another form was never written by us.
LABEL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
NAME = re.compile(r"[0-9a-f]{24}")
MARKER = "ledger-id"  # beside the sources' folders; too shallow to be a uri
DELETE_BATCH = 1000  # the most that S3's DeleteObjects takes
# Objects of a writer that does not know yet that its partition is being purged may appear behind us.
DELETE_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Stored:
    """One object of the store; `path` is below the root."""

    path: str
    size_bytes: int
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class Tree:
    """What lies below a uri."""

    objects: int
    size_bytes: int
    newest: datetime  # when the last of them was written


@dataclass(frozen=True, slots=True)
class Store:
    """The store at `url`. Open it with `open_store`. Safe to share between threads."""

    url: str
    folder: Path | None  # of a file store
    bucket: str = ""  # of an S3 store
    prefix: str = ""
    endpoint: str | None = None
    region: str = "us-east-1"
    credentials: Credentials | None = None  # None: what obstore and Icechunk find by themselves
    ca_file: Path | None = None
    _objects: S3Store | LocalStore | None = field(default=None, repr=False, compare=False)

    def icechunk_storage(self, uri: str) -> "icechunk.Storage":
        """Where the repository at `uri` lies, created or not.

        Icechunk takes no CA file: for a private one SSL_CERT_FILE must be set when the process starts.
        """
        import icechunk

        # It warns that commits of several writers to a folder may meet: ours are on branches of their own.
        icechunk.set_logs_filter("error")
        _check(uri, self.url)
        if self.folder is not None:
            return icechunk.local_filesystem_storage(str(self.folder / uri))
        keys = self.credentials
        return icechunk.s3_storage(
            bucket=self.bucket,
            prefix=f"{self.prefix}/{uri}" if self.prefix else uri,
            region=self.region,
            endpoint_url=self.endpoint,
            allow_http=_is_plain(self.endpoint),
            force_path_style=self.endpoint is not None,
            access_key_id=keys.access_key_id if keys else None,
            secret_access_key=keys.secret_access_key if keys else None,
            session_token=keys.session_token if keys else None,
            from_env=None if keys else True,
        )

    def put(self, path: str, body: bytes) -> None:
        """Write one object; it appears whole or not at all."""
        with self._speaking(f"write {path}"):
            obstore.put(self._open(), _check(path, self.url), body)

    def put_file(self, path: str, file: Path) -> None:
        """Write one object with the file's bytes; a large one goes in parts, and appears whole."""
        with self._speaking(f"write {path}"):
            obstore.put(self._open(), _check(path, self.url), file)

    def get_file(self, path: str, file: Path) -> None:
        """Write one object's bytes to a file, piece by piece."""
        with self._speaking(f"read {path}"), file.open("wb") as into:
            for piece in obstore.get(self._open(), _check(path, self.url)).stream():
                into.write(piece)

    def get(self, path: str) -> bytes:
        """One object's bytes; StoreUnavailable if it is absent: ask `head` where that is an answer."""
        with self._speaking(f"read {path}"):
            return bytes(obstore.get(self._open(), _check(path, self.url)).bytes())

    def head(self, path: str) -> Stored | None:
        """One object's description; None only if the store says that it has no such object."""
        with self._speaking(f"look at {path}"):
            try:
                meta = obstore.head(self._open(), _check(path, self.url))
            except FileNotFoundError:
                return None
        return Stored(meta["path"], meta["size"], meta["last_modified"])

    def list_uris(self, sources: Collection[str] | None = None) -> Iterator[str]:
        """Every uri that holds anything, in order, half-made ones too; None: of whichever source.

        Looks into nothing else: a disk's own folder at its root may be open to nobody but root.
        """
        for source in self._folders("", lambda name: sources is None or name in sources):
            for label in self._folders(source, LABEL.fullmatch):
                for name in self._folders(f"{source}/{label}", NAME.fullmatch):
                    yield f"{source}/{label}/{name}"

    def _folders(self, parent: str, is_wanted: Callable[[str], object]) -> list[str]:
        """Names of the folders in `parent`, in order; the root's in "". Others are not touched."""
        with self._speaking(f"list {parent or 'the root'}"):
            if self.folder is not None:
                return folders_in(self.folder, parent, is_wanted)
            found = obstore.list_with_delimiter(self._open(), parent or None)["common_prefixes"]
        names = [prefix.rstrip("/").rpartition("/")[2] for prefix in found]
        return sorted(name for name in names if is_wanted(name))

    def names_below(self, uri: str) -> tuple[str, ...]:
        """The folders directly below `uri`; none where there is nothing."""
        _check_uri(uri, self.url)
        return tuple(self._folders(uri, lambda _: True))

    def weigh(self, uri: str) -> Tree | None:
        """What lies below `uri`; None if there is no object. Tells reconcile an orphan's age and size."""
        _check(uri, self.url)
        with self._speaking(f"list {uri}"):
            objects = list(self._objects_below(uri))
        if not objects:
            return None
        sizes, dates = zip(*objects, strict=True)
        return Tree(len(sizes), sum(sizes), max(dates))

    def _objects_below(self, uri: str) -> Iterator[tuple[int, datetime]]:
        """Size and date of each object. Not folders': a deletion that died would have made them young."""
        if self.folder is None:
            for page in obstore.list(self._open(), uri, chunk_size=DELETE_BATCH):
                yield from ((meta["size"], meta["last_modified"]) for meta in page)
            return
        # Not through obstore: its listing hides the `name#1` files that a killed writer leaves.
        for parent, _, names in os.walk(self.folder / uri, onerror=unless_gone):
            for name in names:
                # A purge may delete it between the listing and this look.
                with suppress(FileNotFoundError):
                    seen = Path(parent, name).lstat()
                    yield seen.st_size, datetime.fromtimestamp(seen.st_mtime, UTC)

    def delete_tree(self, uri: str, at: Callable[[str], None] = lambda _: None) -> None:
        """Delete everything below `uri`; nothing there is done, too. `at("delete")` after each step.

        PermanentError if the store refuses, StoreUnavailable if something is left: call again.
        """
        _check_uri(uri, self.url)
        self._delete_all(uri, at)

    def delete_below(self, uri: str, name: str) -> None:
        """Delete everything below `uri`/`name`: one of several snapshots that share a uri. As delete_tree."""
        _check_uri(uri, self.url)
        self._delete_all(_check(f"{uri}/{name}", self.url), lambda _: None)

    def _delete_all(self, uri: str, at: Callable[[str], None]) -> None:
        for _ in range(DELETE_ROUNDS):
            with self._speaking(f"delete {uri}"):
                if self._delete_round(uri, at):
                    return
        raise StoreUnavailable(
            f"{self.url}/{uri}: objects appear faster than they are deleted. The ledger still says purging:"
            " the next purge goes on. Is a writer of this partition alive?"
        )

    def sync(self) -> None:
        """Make what was written survive a power cut. S3 does by itself; obstore and Icechunk never fsync."""
        if self.folder is not None:
            os.sync()

    def bind(self, ledger_id: str) -> None:
        """Make the store this ledger's, if it has no owner; PermanentError if it has another.

        Only for a ledger that has published nothing yet: an unmounted disk looks like a new store.
        """
        try:
            with self._speaking("write the marker"):
                obstore.put(self._open(), MARKER, ledger_id.encode(), mode="create")
        except AlreadyExistsError:
            self.verify(ledger_id)
        self.sync()

    def verify(self, ledger_id: str) -> None:
        """PermanentError unless the store carries this ledger's marker. Before calling anything an orphan."""
        found = self.get(MARKER).decode() if self.head(MARKER) else None
        if found == ledger_id:
            return
        remedy = (
            "Is its disk mounted? Is the URL right?"
            if found is None
            else "Point the ledger at its own store, or give this one another URL."
        )
        raise PermanentError(
            f"{self.url}: expected the marker of ledger {ledger_id}, found {found or 'none'}. Nothing was"
            f" deleted or written. {remedy}"
        )

    def require(self, ledger_id: str) -> None:
        """As verify for who is about to write: StoreUnavailable, for it may be back in a moment.

        A new repository can be made in the empty folder that an unmounted disk leaves; when the disk is back,
        what the ledger names would be hidden under it.
        """
        try:
            self.verify(ledger_id)
        except PermanentError as error:
            raise StoreUnavailable(str(error)) from error

    def _open(self) -> S3Store | LocalStore:
        assert self._objects is not None  # noqa: S101 - open_store sets it
        return self._objects

    def _delete_round(self, uri: str, at: Callable[[str], None]) -> bool:
        """Delete what a listing shows; True if it showed nothing."""
        if self.folder is not None:
            return delete_folder(self.folder / uri, at)
        empty = True
        for page in obstore.list(self._open(), uri, chunk_size=DELETE_BATCH):
            empty = False
            obstore.delete(self._open(), [meta["path"] for meta in page])
            at("delete")
        return empty

    @contextmanager
    def _speaking(self, doing: str) -> Iterator[None]:
        """Turn refusals and outages into our families; what exists already stays what it is."""
        try:
            yield
        except AlreadyExistsError:
            raise
        except (BaseError, OSError) as error:
            if _is_refusal(error):
                raise PermanentError(
                    f"{self.url}: could not {doing}: {_brief(error)}. What is published stays."
                    " Correct the rights or the credentials."
                ) from error
            raise StoreUnavailable(
                f"{self.url}: could not {doing}: {_brief(error)}. What is published stays."
            ) from error


def open_store(
    url: str,
    *,
    credentials: Credentials | None = None,
    endpoint: str | None = None,
    region: str | None = None,
    ca_file: Path | None = None,
) -> Store:
    """The store at file:///folder (made if missing) or s3://bucket/prefix. Else PermanentError."""
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path.strip("/") and not parts.netloc:
        folder = Path(unquote(parts.path))
        folder.mkdir(parents=True, exist_ok=True)
        return Store(url.rstrip("/"), folder, _objects=LocalStore(folder))
    if parts.scheme == "s3" and parts.netloc:
        region = region or "us-east-1"
        prefix = parts.path.strip("/")
        objects = _open_s3(parts.netloc, prefix, credentials, endpoint, region, ca_file)
        return Store(
            url.rstrip("/"), None, parts.netloc, prefix, endpoint, region, credentials, ca_file, objects
        )
    raise PermanentError(
        f"store URL {url!r}: expected file:///absolute/folder or s3://bucket/prefix. Nothing was opened."
        " Correct INGEST_STORE_URL."
    )


def store_of(settings: Settings) -> Store:
    """The published store that the environment names."""
    return open_store(
        settings.store_url,
        credentials=settings.store_credentials,
        endpoint=settings.store_endpoint,
        region=settings.store_region,
        ca_file=settings.ca_file,
    )


def _open_s3(
    bucket: str,
    prefix: str,
    credentials: Credentials | None,
    endpoint: str | None,
    region: str,
    ca_file: Path | None,
) -> S3Store:
    client: ClientConfig = {"allow_http": _is_plain(endpoint)}
    if ca_file:
        client["root_certificate"] = ca_file.read_bytes()
    config: S3Config = {"region": region}
    if endpoint:
        config["endpoint"] = endpoint
    if credentials:
        config["access_key_id"] = credentials.access_key_id
        config["secret_access_key"] = credentials.secret_access_key
    if credentials and credentials.session_token:
        config["session_token"] = credentials.session_token
    return S3Store(bucket, prefix=prefix or None, config=config, client_options=client)


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
        return True
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return True
    # A refused listing, or a refusal inside the answer to DeleteObjects, is generic: only its text tells.
    return re.search(r"code: (401|403|AccessDenied)\b", str(error)) is not None


def _brief(error: Exception) -> str:
    # obstore adds its internal structures to the message, thirty lines of them.
    return " ".join(str(error).partition("Debug source")[0].split())


def _is_plain(endpoint: str | None) -> bool:
    return endpoint is not None and urlsplit(endpoint).scheme == "http"


def _check(path: str, url: str) -> str:
    """`path` itself, if it is plain parts below the root; else PermanentError."""
    parts = path.split("/")
    if any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in parts):
        raise PermanentError(f"{url}: {path!r} is no path below the store's root. Nothing was touched.")
    return str(PurePosixPath(*parts))


def _check_uri(uri: str, url: str) -> None:
    if _check(uri, url).count("/") != URI_DEPTH - 1:
        raise PermanentError(f"{url}: {uri!r} is no uri, source/partition/name. Nothing was deleted.")
