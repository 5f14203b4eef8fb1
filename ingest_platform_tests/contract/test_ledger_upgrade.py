"""A ledger of an older version, with rows in it, becomes one of this version and loses nothing."""

from importlib.resources import as_file, files

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from ingest_platform.catalog import engine as database
from ingest_platform.catalog.ledger import Catalog
from ingest_platform.catalog.tables import metadata
from ingest_platform_tests.contract.ledger_world import CYCLE, SOURCE, PlayedClock, World, sighting, world


def test_a_ledger_of_the_first_version_keeps_its_rows_and_gets_the_gauges(empty_database: str) -> None:
    """Else an upgrade would cost a user the ledger, and with it everything that the store holds."""
    migrate(empty_database, "0001")
    # Versions differ in their indexes only, so the verbs of this one fill a ledger of the first.
    old = World(empty_database, PlayedClock(), Catalog(database.connect(empty_database), now=PlayedClock()))
    old.ingested(sighting("f000"))
    old.seen(sighting("f001"))
    identity, states, indexes = old.catalog.ledger_id, old.states(), index_names(empty_database)
    old.catalog.close()

    with world(empty_database) as upgraded:
        (gauges,) = upgraded.catalog.gauges(SOURCE)

        assert (upgraded.catalog.ledger_id, upgraded.states()) == (identity, states)
        assert (gauges.pending, upgraded.live()) == (1, {"f000": "e1"})
        assert upgraded.claimed(CYCLE).objects[0].key == "f001"
    assert "ix_source_object_pending" in index_names(empty_database) - indexes


def test_an_upgraded_ledger_has_the_tables_of_a_new_one(empty_database: str) -> None:
    """Else the first genomes fail where weather was ingested before, and nowhere else."""
    migrate(empty_database, "0002")
    Catalog.open(empty_database).close()
    Catalog.open(empty_database).close()  # which finds the version that it expects

    engine = database.connect(empty_database)
    with engine.connect() as tx:
        differences = compare_metadata(MigrationContext.configure(tx), metadata)
    engine.dispose()
    assert [change for change in differences if "table" in str(change[0]) or "column" in str(change[0])] == []


def migrate(url: str, revision: str) -> None:
    """A new ledger as the version of this revision would have made it."""
    engine = database.connect(url)
    with engine.begin() as tx, as_file(files("ingest_platform.catalog") / "migrations") as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.attributes["connection"] = tx
        command.upgrade(config, revision)
    engine.dispose()


def index_names(url: str) -> set[str]:
    engine = database.connect(url)
    names = {str(index["name"]) for index in inspect(engine).get_indexes("source_object")}
    engine.dispose()
    return names
