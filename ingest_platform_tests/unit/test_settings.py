"""Settings: defaults that need nothing, mistakes that are named, secrets that stay out of logs."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest

from ingest_platform import settings as module
from ingest_platform.errors import PermanentError
from ingest_platform.settings import SETTINGS, BadSetting, Settings


def test_an_empty_environment_gives_local_defaults() -> None:
    """Else a newcomer has to configure something before the first run."""
    settings = Settings.from_environment({})

    home = Path.home() / ".local/share/ingest_platform"
    assert settings.home == home
    assert settings.store_url == f"file://{home}/data"
    assert settings.catalog_url == f"sqlite:///{home}/catalog.db"
    assert (settings.parallel_downloads, settings.max_retries, settings.poll_interval) == (4, 3, None)
    assert settings.source_credentials is None
    assert settings.store_credentials is None


def test_store_and_ledger_follow_the_home_folder(tmp_path: Path) -> None:
    """Else two installations on one machine share a ledger unnoticed."""
    settings = Settings.from_environment({"INGEST_HOME": str(tmp_path)})

    assert settings.store_url == f"{tmp_path.as_uri()}/data"
    assert settings.catalog_url == f"sqlite:///{tmp_path}/catalog.db"


def test_an_empty_variable_counts_as_unset() -> None:
    """Else `INGEST_REDIS_URL=` in a compose file is a server named nothing."""
    assert Settings.from_environment(dict.fromkeys(SETTINGS, "")) == Settings.from_environment({})


def test_model_names_may_have_spaces_around_the_commas() -> None:
    """Else ENABLED_MODELS="gfs, hrrr" enables one model and an unknown one."""
    assert Settings.from_environment({"ENABLED_MODELS": "gfs, hrrr,"}).enabled_models == ("gfs", "hrrr")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PARALLEL_DOWNLOADS", "0", "PARALLEL_DOWNLOADS='0': expected a whole number of at least 1"),
        ("MAX_RETRIES", "-1", "MAX_RETRIES='-1': expected a whole number of at least 0"),
        ("POLL_INTERVAL", "1.5", "POLL_INTERVAL='1.5': expected a whole number of at least 1"),
        (
            "INGEST_STORE_URL",
            "/data",
            "INGEST_STORE_URL: expected a URL that begins with file:, s3:, found ''",
        ),
        ("INGEST_CATALOG_URL", "mysql://h/d", "INGEST_CATALOG_URL: .* found 'mysql'"),
        ("INGEST_WEATHER_ENDPOINT", "s3://noaa", "INGEST_WEATHER_ENDPOINT: .* found 's3'"),
        ("INGEST_ALERT_WEBHOOK", "hooks.example/x", "INGEST_ALERT_WEBHOOK: .* found ''"),
        ("INGEST_ALERT_WEBHOOK", "http://[/x", "INGEST_ALERT_WEBHOOK: .* found ''"),
        ("INGEST_ALERT_WEBHOOK", "https://user:pw@hooks.example/x", "INGEST_ALERT_WEBHOOK: a user before @"),
        ("INGEST_SOURCE_ACCESS_KEY_ID", "key", "INGEST_SOURCE_SECRET_ACCESS_KEY: set both or none"),
    ],
)
def test_a_malformed_value_is_named_with_what_was_expected(name: str, value: str, expected: str) -> None:
    """Else the mistake shows hours later as a traceback in a run."""
    with pytest.raises(BadSetting, match=expected):
        Settings.from_environment({name: value})


def test_every_mistake_is_told_at_once() -> None:
    """Else an operator restarts the service once for each typing error."""
    with pytest.raises(PermanentError) as caught:
        Settings.from_environment({"MAX_RETRIES": "x", "PARALLEL_DOWNLOADS": "y", "INGEST_REDIS_URL": "z"})

    assert all(
        name in str(caught.value) for name in ("MAX_RETRIES", "PARALLEL_DOWNLOADS", "INGEST_REDIS_URL")
    )


def test_no_secret_is_shown() -> None:
    """Else a log line or a traceback publishes the password of the ledger or the keys of the store."""
    secret = "s3cr3t"  # noqa: S105
    settings = Settings.from_environment(
        {
            "INGEST_CATALOG_URL": f"postgresql+psycopg2://ingest:{secret}@db/ledger",
            "INGEST_REDIS_URL": f"redis://:{secret}@cache/0",
            "INGEST_SOURCE_ACCESS_KEY_ID": "source",
            "INGEST_SOURCE_SECRET_ACCESS_KEY": secret,
            "AWS_ACCESS_KEY_ID": "store",
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_SESSION_TOKEN": secret,
            "INGEST_ALERT_WEBHOOK": f"https://hooks.example/{secret}",
        }
    )

    assert secret not in repr(settings)
    assert settings.store_credentials is not None
    assert settings.store_credentials.secret_access_key == secret
    assert settings.alert_webhook == f"https://hooks.example/{secret}"


def test_every_secret_can_be_taken_out_of_a_text() -> None:
    """Else an alert repeats a library's error, and with it the password that the error quotes."""
    settings = Settings.from_environment(
        {
            "INGEST_CATALOG_URL": "postgresql+psycopg2://ingest:of-ledger@db/ledger",
            "INGEST_REDIS_URL": "redis://:of-redis@cache/0",
            "INGEST_SOURCE_ACCESS_KEY_ID": "source",
            "INGEST_SOURCE_SECRET_ACCESS_KEY": "of-source",
            "AWS_ACCESS_KEY_ID": "store",
            "AWS_SECRET_ACCESS_KEY": "of-store",
            "AWS_SESSION_TOKEN": "of-session",
            "INGEST_ALERT_WEBHOOK": "https://hooks.example/secret",
        }
    )

    named = {"of-ledger", "of-redis", "of-source", "of-store", "of-session", "https://hooks.example/secret"}
    assert set(settings.secrets) == named
    assert Settings.from_environment({}).secrets == ()


def test_links_do_not_get_a_double_slash() -> None:
    """Else a base URL that was copied from the browser makes links that Dagster does not know."""
    assert Settings.from_environment({}).dagster_url == "http://127.0.0.1:3000"
    assert (
        Settings.from_environment({"INGEST_DAGSTER_URL": "https://d.example/"}).dagster_url
        == "https://d.example"
    )


def test_a_malformed_url_does_not_show_its_password() -> None:
    """Else the very message about a mistake publishes the secret."""
    with pytest.raises(BadSetting) as caught:
        Settings.from_environment({"INGEST_CATALOG_URL": "postgres://ingest:s3cr3t@db/ledger"})

    assert "s3cr3t" not in str(caught.value)


def test_every_setting_that_is_read_is_documented() -> None:
    """Else a setting works that nobody can find, or the docs promise one that does nothing."""
    files = ("settings.py", "storage/credentials.py")
    trees = [ast.parse((Path(module.__file__).parent / name).read_text()) for name in files]
    literals = {
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isupper()
    }

    named = {text for text in literals if text.replace("_", "").isalnum() and "_" in text}

    assert named == set(SETTINGS)
    assert len(fields(Settings)) >= 15
