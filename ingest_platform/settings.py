"""The environment as one frozen value. Read once by whoever starts a process, passed on as a parameter.

`SETTINGS` is the table of docs/weather.md: each name, its default and its meaning.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ingest_platform.errors import PermanentError
from ingest_platform.storage.credentials import Credentials


class BadSetting(PermanentError):
    """An environment variable does not hold what it must. Nothing was started."""


SETTINGS: Mapping[str, tuple[str, str]] = {
    "INGEST_HOME": ("~/.local/share/ingest_platform", "Folder of everything local"),
    "INGEST_STORE_URL": ("file://$INGEST_HOME/data", "Published data: file:///folder or s3://bucket/prefix"),
    "INGEST_CATALOG_URL": (
        "sqlite:///$INGEST_HOME/catalog.db",
        "Ledger: sqlite:///file or postgresql+psycopg2://…",
    ),
    "INGEST_WEATHER_ENDPOINT": (
        "the public buckets",
        "An S3 endpoint, or file:///folder of buckets, in their place",
    ),
    "INGEST_WEATHER_MODELS": (
        "none",
        "Folder of your own model YAML files; the same id replaces a shipped one",
    ),
    "INGEST_SILO_ORGANISMS": (
        "none",
        "YAML file of the organisms whose released sequences are imported; see silo.md",
    ),
    "INGEST_SOURCE_ACCESS_KEY_ID": ("anonymous", "Keys for source buckets that want them"),
    "INGEST_SOURCE_SECRET_ACCESS_KEY": ("anonymous", "The secret that belongs to it"),
    "ENABLED_MODELS": ("all", "Comma-separated ids, families or aliases"),
    "PARALLEL_DOWNLOADS": ("4", "Requests under way at once per host; fewer while it answers 503"),
    "MAX_RETRIES": ("3", "Retries of one request, before the ledger tries again later"),
    "POLL_INTERVAL": ("from the model", "Seconds between two listings, for all models"),
    "AWS_ACCESS_KEY_ID": ("none", "Keys of the published store on S3"),
    "AWS_SECRET_ACCESS_KEY": ("none", "The secret that belongs to it"),
    "AWS_SESSION_TOKEN": ("none", "Session token, with temporary keys"),
    "AWS_ENDPOINT_URL": ("AWS", "S3-compatible endpoint of the published store"),
    "AWS_REGION": ("us-east-1", "Region of the published store"),
    "AWS_CA_BUNDLE": (
        "the system's",
        "Certificates to trust for https endpoints; Icechunk wants SSL_CERT_FILE as well",
    ),
    "INGEST_REDIS_URL": ("none", "redis://host:port/db"),
    "INGEST_WEAVIATE_URL": ("none", "http://host:port"),
    "INGEST_WEAVIATE_GRPC_PORT": ("50051", "Port of the same host for bulk requests and queries"),
    "INGEST_ALERT_WEBHOOK": ("none: no alerts", "URL that failures are posted to as JSON; a secret"),
    "INGEST_DAGSTER_URL": ("http://127.0.0.1:3000", "Dagster's pages, for links in alerts and on pages"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What a process needs to know about the world. Secrets do not show in its repr."""

    home: Path
    store_url: str
    catalog_url: str = field(repr=False)  # may hold a password
    weather_endpoint: str | None
    weather_models: Path | None
    silo_organisms: Path | None
    enabled_models: tuple[str, ...] | None
    parallel_downloads: int
    max_retries: int
    poll_interval: int | None  # seconds
    source_credentials: Credentials | None
    store_credentials: Credentials | None
    store_endpoint: str | None
    store_region: str
    ca_file: Path | None
    redis_url: str | None = field(repr=False)
    weaviate_url: str | None
    weaviate_grpc_port: int
    alert_webhook: str | None = field(repr=False)  # its path is the password
    dagster_url: str  # without a slash at its end

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Raises BadSetting with every mistake at once. An empty variable counts as unset."""
        given = {name: value for name, value in environ.items() if value}
        _require_sense(given)
        home = Path(given.get("INGEST_HOME", "~/.local/share/ingest_platform")).expanduser().absolute()
        return cls(
            home=home,
            store_url=given.get("INGEST_STORE_URL", (home / "data").as_uri()),
            catalog_url=given.get("INGEST_CATALOG_URL", f"sqlite:///{home / 'catalog.db'}"),
            weather_endpoint=given.get("INGEST_WEATHER_ENDPOINT"),
            weather_models=_path(given.get("INGEST_WEATHER_MODELS")),
            silo_organisms=_path(given.get("INGEST_SILO_ORGANISMS")),
            enabled_models=_names(given.get("ENABLED_MODELS")),
            parallel_downloads=int(given.get("PARALLEL_DOWNLOADS", "4")),
            max_retries=int(given.get("MAX_RETRIES", "3")),
            poll_interval=int(given["POLL_INTERVAL"]) if "POLL_INTERVAL" in given else None,
            source_credentials=_source_credentials(given),
            store_credentials=Credentials.from_environment(given),
            store_endpoint=given.get("AWS_ENDPOINT_URL"),
            store_region=given.get("AWS_REGION", "us-east-1"),
            ca_file=_path(given.get("AWS_CA_BUNDLE")),
            redis_url=given.get("INGEST_REDIS_URL"),
            weaviate_url=given.get("INGEST_WEAVIATE_URL"),
            weaviate_grpc_port=int(given.get("INGEST_WEAVIATE_GRPC_PORT", "50051")),
            alert_webhook=given.get("INGEST_ALERT_WEBHOOK"),
            dagster_url=given.get("INGEST_DAGSTER_URL", "http://127.0.0.1:3000").rstrip("/"),
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not leave the house, in no error's text either."""
        urls = [url for url in (self.catalog_url, self.redis_url) if url is not None]
        passwords = [urlsplit(url).password for url in urls]
        keys = [keys for keys in (self.source_credentials, self.store_credentials) if keys is not None]
        held = [
            self.alert_webhook,
            *passwords,
            *(k.secret_access_key for k in keys),
            *(k.session_token for k in keys),
        ]
        return tuple(secret for secret in held if secret)


# Name → smallest whole number that makes sense.
_NUMBERS = {"PARALLEL_DOWNLOADS": 1, "MAX_RETRIES": 0, "POLL_INTERVAL": 1, "INGEST_WEAVIATE_GRPC_PORT": 1}
_SCHEMES = {
    "INGEST_STORE_URL": ("file", "s3"),
    "INGEST_CATALOG_URL": ("sqlite", "postgresql", "postgresql+psycopg2"),
    "INGEST_WEATHER_ENDPOINT": ("http", "https", "file"),
    "AWS_ENDPOINT_URL": ("http", "https"),
    "INGEST_REDIS_URL": ("redis", "rediss", "unix"),
    "INGEST_WEAVIATE_URL": ("http", "https"),
    "INGEST_ALERT_WEBHOOK": ("http", "https"),
    "INGEST_DAGSTER_URL": ("http", "https"),
}


def _require_sense(given: Mapping[str, str]) -> None:
    mistakes = [
        f"{name}={given[name]!r}: expected a whole number of at least {least}"
        for name, least in _NUMBERS.items()
        if name in given and not (given[name].isdecimal() and int(given[name]) >= least)
    ]
    # The value of a URL is not repeated: it may hold a password.
    mistakes += [
        f"{name}: expected a URL that begins with {', '.join(f'{s}:' for s in schemes)},"
        f" found {_scheme(given[name])!r}"
        for name, schemes in _SCHEMES.items()
        if name in given and _scheme(given[name]) not in schemes
    ]
    key, secret = "INGEST_SOURCE_ACCESS_KEY_ID", "INGEST_SOURCE_SECRET_ACCESS_KEY"
    if (key in given) != (secret in given):
        mistakes.append(f"{key} and {secret}: set both or none")
    if "@" in given.get("INGEST_ALERT_WEBHOOK", "").partition("://")[2].partition("/")[0]:
        mistakes.append("INGEST_ALERT_WEBHOOK: a user before @ is not sent; expected a secret in the path")
    if mistakes:
        raise BadSetting("; ".join(mistakes) + ". Nothing was started: correct the environment.")


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:  # a bracket without its partner
        return ""


def _source_credentials(given: Mapping[str, str]) -> Credentials | None:
    key = given.get("INGEST_SOURCE_ACCESS_KEY_ID")
    return Credentials(key, given["INGEST_SOURCE_SECRET_ACCESS_KEY"]) if key else None


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser().absolute() if text else None


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else None
