"""Organisms in Dagster: what an import tells, what a failure shows, what the sensor asks for and observes."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from ingest_platform.catalog.ledger import Catalog
from ingest_platform.settings import Settings
from ingest_platform.silo.defs import BACKEND, CHECKS, INDEX, LINEAGES, RECORDS, SNAPSHOT, definitions
from ingest_platform.silo.engines.rhydb_rows import rows_in
from ingest_platform.silo.read import live
from ingest_platform.silo.served import indexes
from ingest_platform.silo.summary import SHOWN_IN_PLACE_CHARACTERS
from ingest_platform.storage.store import store_of
from ingest_platform_tests.silo_bench import DIES_MID_SAVE
from ingest_platform_tests.silo_world import Answer, Loculus, Request, answer, loculus, record, write_database

LINEAGE_FILE = b"A: {}\nA.1: {parents: [A]}\n"
# Engines that do not build: one says so, one dies while it saves.
REFUSES = "#!/bin/sh\necho no room for columns\nexit 2\n"
DIES = DIES_MID_SAVE.replace("mkdir", "echo saving\nmkdir", 1)
NAMES = ("released_snapshot", "lineage_definitions", "silo_ndjson", "silo_index")


@dataclass
class Farm:
    """Organisms that one backend serves, and a Dagster of their own."""

    home: Path
    backend: Loculus
    instance: dg.DagsterInstance = field(default_factory=dg.DagsterInstance.ephemeral)
    cursor: str | None = None  # of the sensor

    def __post_init__(self) -> None:
        self.settings = Settings.from_environment(
            {"INGEST_HOME": str(self.home), "INGEST_SILO_ORGANISMS": str(self.home / "organisms.yaml")}
        )
        self.catalog = Catalog.open(self.settings.catalog_url)
        self.parts = {"catalog": self.catalog, "store": store_of(self.settings), "settings": self.settings}
        self.defs = dg.Definitions.merge(
            definitions(), dg.Definitions(resources=self.parts, executor=dg.in_process_executor)
        )

    def configure(self, *organisms: str, lineages: bool = False, **settings: Any) -> None:
        entries = []
        for name in organisms:
            config = write_database(self.home / "config" / name, lineage_system="world" if lineages else None)
            entry: dict[str, Any] = {
                "id": name,
                "backend_url": f"{self.backend.url}-{name}",
                "preprocessing_config": str(config),
                "output": str(self.output(name)),
                "poll_interval_seconds": 1,
            }
            if lineages:
                entry["lineage_definitions"] = {"world": {1: f"{self.backend.url}/lineages.yaml"}}
            entries.append(entry | settings)
        (self.home / "organisms.yaml").write_text(yaml.safe_dump({"organisms": entries}))
        known = set(self.instance.get_dynamic_partitions("organism"))
        self.instance.add_dynamic_partitions("organism", sorted(set(organisms) - known))

    def output(self, organism: str) -> Path:
        return self.home / "served" / organism

    def run(self, organism: str, **config: bool) -> dg.ExecuteInProcessResult:
        job = self.defs.resolve_job_def("import_silo")
        return job.execute_in_process(
            run_config={"ops": {"silo_import": {"config": config}}},
            partition_key=organism,
            instance=self.instance,
            raise_on_error=False,
        )

    def tick(self) -> dg.SensorResult | dg.SkipReason:
        sensor = self.defs.resolve_sensor_def("silo_sensor")
        context = dg.build_sensor_context(instance=self.instance, resources=self.parts, cursor=self.cursor)
        answered = sensor(context)
        assert isinstance(answered, dg.SensorResult | dg.SkipReason)
        if isinstance(answered, dg.SensorResult):
            self.cursor = answered.cursor
        return answered

    def checks(self) -> dict[str, tuple[bool, str]]:
        done = self.defs.resolve_job_def("check_silo").execute_in_process(instance=self.instance)
        return {
            found.check_name: (found.passed, found.description or "")
            for found in done.get_asset_check_evaluations()
        }


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with loculus() as backend:
        made = Farm(tmp_path, backend)
        yield made
        made.catalog.close()
        made.instance.dispose()


def told(result: dg.ExecuteInProcessResult) -> dict[dg.AssetKey, dg.AssetMaterialization]:
    """What a run told of each asset."""
    materializations = (event.materialization for event in result.get_asset_materialization_events())
    return {made.asset_key: made for made in materializations}


def with_lineages(released: Answer, definitions: bytes = LINEAGE_FILE) -> Any:
    """A rule that serves the release, 304 to who knows it, and the lineage file."""
    etag = released.headers["ETag"]

    def rule(request: Request) -> Answer:
        if request.path.endswith("lineages.yaml"):
            return Answer(definitions, framing="length")
        known = request.headers.get("if-none-match") == etag
        return Answer(status=304, framing="length", headers={"ETag": etag}) if known else released

    return rule


@pytest.mark.silo_case(1)
def test_a_run_imports_and_a_second_one_has_nothing_to_tell(farm: Farm) -> None:
    """Else the UI is empty where there is data, or shows news every poll where there is none."""
    farm.configure("ebola")
    farm.backend.release(answer([record(n) for n in range(12)]))

    first, second = farm.run("ebola"), farm.run("ebola")

    assert first.success, first.all_events
    assert set(told(first)) == {SNAPSHOT, RECORDS, INDEX}
    assert second.success
    assert told(second) == {}
    [index] = indexes(farm.output("ebola"))
    assert rows_in(index, os.environ) == 12


def test_a_materialization_shows_what_people_look_at(farm: Farm) -> None:
    """Rows, bytes, versions, lineages, the engine's words and the growth: else they ask the database."""
    farm.configure("ebola", lineages=True)
    farm.backend.rule = with_lineages(answer([record(n) for n in range(12)]))
    farm.run("ebola")
    farm.backend.rule = with_lineages(answer([record(n) for n in range(15)], etag='"e2"'))

    made = told(farm.run("ebola"))

    assert set(made) == {SNAPSHOT, RECORDS, INDEX}  # the lineage file is the same
    shown: dict[str, Any] = {name: value.value for name, value in made[INDEX].metadata.items()}
    assert (shown["dagster/row_count"], shown["rows_more"]) == (15, 3)
    assert shown["bytes_index"] > 0
    assert shown["engine"].startswith("rhydb 0.")
    assert "Saving database" in shown["engine_log"]
    assert shown["growth"].startswith("12 → 15 rows")
    assert len(shown["growth"]) < SHOWN_IN_PLACE_CHARACTERS
    assert [row.data["records"] for row in shown["pipeline_versions"].records] == [15]
    assert [row.data["system"] for row in shown["lineages"].records] == ["world"]
    assert made[SNAPSHOT].metadata["etag"].value == '"e2"'


@pytest.mark.silo_case(21)
def test_a_changed_lineage_file_is_told_and_rebuilds(farm: Farm) -> None:
    """A new lineage that only appears with the next genome is days late."""
    farm.configure("ebola", lineages=True)
    released = answer([record(0)])
    farm.backend.rule = with_lineages(released)
    first = told(farm.run("ebola"))
    farm.backend.rule = with_lineages(released, LINEAGE_FILE + b"A.2: {parents: [A]}\n")

    second = told(farm.run("ebola", refresh=True))

    assert set(first) == {dg.AssetKey(["silo", name]) for name in NAMES}
    assert set(second) == {LINEAGES, INDEX}


@pytest.mark.silo_case(13)
@pytest.mark.parametrize(("program", "said"), [(REFUSES, "no room for columns"), (DIES, "signal 11")])
def test_an_engine_that_fails_shows_its_words_and_costs_nothing(farm: Farm, program: str, said: str) -> None:
    """Upstream logs it in a pod that restarts: the index is old for days before anybody looks there."""
    binary = farm.home / "engine"
    binary.write_text(program)
    binary.chmod(0o755)
    farm.configure("ebola", engine={"kind": "cli", "binary": str(binary)})
    farm.backend.release(answer([record(n) for n in range(3)]))

    failed = farm.run("ebola")

    [event] = failed.get_step_failure_events()
    failure = event.step_failure_data.user_failure_data
    assert failure is not None
    assert said in str(failure.description)
    assert "engine_log" in failure.metadata
    assert told(failed) == {}
    assert live(farm.catalog, "ebola") is None
    assert indexes(farm.output("ebola")) == ()


@pytest.mark.silo_case(9)
def test_a_loss_of_rows_is_refused_until_a_person_accepts_it(farm: Farm) -> None:
    """An empty release of a backend that lost its pipeline must not empty the website."""
    farm.configure("ebola")
    farm.backend.release(answer([record(n) for n in range(12)]))
    farm.run("ebola")
    farm.backend.release(answer([record(0)], etag='"e2"'))

    refused, accepted = farm.run("ebola"), farm.run("ebola", accept_row_drop=True)

    assert not refused.success
    assert told(refused) == {}
    assert told(accepted)[INDEX].metadata["dagster/row_count"].value == 1
    assert farm.checks()["row_drop"][0] is False


def test_the_sensor_adds_partitions_asks_for_runs_and_observes_etags(farm: Farm) -> None:
    """A new organism needs a line of configuration, no reload; its backend's state shows in the lineage."""
    farm.configure("ebola", "mpox")
    farm.instance.delete_dynamic_partition("organism", "mpox")
    farm.instance.add_dynamic_partitions("organism", ["gone"])
    farm.backend.release(answer([record(0)]))

    first = farm.tick()

    assert isinstance(first, dg.SensorResult)
    assert sorted(str(run.partition_key) for run in first.run_requests or ()) == ["ebola", "mpox"]
    added, deleted = first.dynamic_partitions_requests or ()
    assert (added.partition_keys, deleted.partition_keys) == (["mpox"], ["gone"])
    observed = [event for event in first.asset_events if isinstance(event, dg.AssetObservation)]
    assert {(event.asset_key, event.partition) for event in observed} == {
        (BACKEND, "ebola"),
        (BACKEND, "mpox"),
    }
    assert {(event.tags or {})["dagster/data_version"] for event in observed} == {'"e1"'}
    second = farm.tick()
    assert isinstance(second, dg.SensorResult)
    assert not second.run_requests
    assert not second.asset_events


def test_a_fresh_ledger_asks_under_new_run_keys(farm: Farm) -> None:
    """Dagster never runs a key twice: a replaced ledger's first requests would be dropped without a word."""
    farm.configure("ebola")
    farm.backend.release(answer([record(0)]))
    [first] = requests(farm)
    (farm.home / "other").mkdir()
    other = Farm(farm.home / "other", farm.backend)
    other.configure("ebola")
    [second] = requests(other)
    other.catalog.close()

    assert first.run_key != second.run_key


def requests(farm: Farm) -> list[dg.RunRequest]:
    result = farm.tick()
    return list(result.run_requests or ()) if isinstance(result, dg.SensorResult) else []


@pytest.mark.silo_case(10)
def test_a_backend_that_is_away_fails_the_tick_and_holds_up_no_other(farm: Farm) -> None:
    """Silence would look like "nothing new"; a tick that fails at once would starve the others."""
    farm.configure("ebola", "mpox")
    sound = answer([record(0)])
    farm.backend.rule = lambda request: sound if "mpox" in request.path else Answer(status=503)

    asked = requests(farm)
    farm.configure("ebola")
    farm.instance.delete_dynamic_partition("organism", "mpox")

    assert [run.partition_key for run in asked] == ["mpox"]
    farm.catalog.keep_cursor("silo", "{}")  # ask again at once
    with pytest.raises(dg.Failure, match="ebola"):
        farm.tick()


def test_one_output_that_cannot_be_looked_at_holds_up_no_other(farm: Farm) -> None:
    """Else one broken folder stops the imports of all organisms, for as long as nobody looks."""
    farm.configure("ebola")
    farm.backend.release(answer([record(0)]))
    farm.run("ebola")
    [index] = indexes(farm.output("ebola"))
    index.path.rename(farm.home / "elsewhere")
    index.path.symlink_to(index.path)
    # And the note of its last try cannot be read, either.
    note = farm.home / "silo" / ".unserved-ebola"
    note.parent.mkdir(exist_ok=True)
    note.symlink_to(note)
    farm.configure("ebola", "mpox")

    asked = requests(farm)

    assert [run.partition_key for run in asked] == ["mpox"]
    with pytest.raises(dg.Failure, match="unserved-ebola"):
        farm.tick()


def test_a_run_may_last_as_long_as_its_organisms_time_outs_allow(farm: Farm) -> None:
    """Else Dagster ends a download that its settings allow, at the third hour, again and again."""
    farm.configure("ebola", timeouts={"total_seconds": 20000})
    farm.backend.release(answer([record(0)]))

    [due] = requests(farm)
    farm.run("ebola")
    [index] = indexes(farm.output("ebola"))
    index.path.rename(farm.home / "elsewhere")
    [serving] = requests(farm)

    longest = str(20000 + 3600 + 3600)
    assert [run.tags["dagster/max_runtime"] for run in (due, serving)] == [longest, longest]
    assert farm.defs.resolve_job_def("import_silo").tags["dagster/max_runtime"] == "10800"


def test_without_organisms_the_sensor_rests(farm: Farm) -> None:
    """Who only wants weather must not see a failing sensor."""
    farm.parts["settings"] = Settings.from_environment({"INGEST_HOME": str(farm.home)})

    rested = farm.tick()

    assert isinstance(rested, dg.SkipReason)
    assert "INGEST_SILO_ORGANISMS" in str(rested.skip_message)


def test_the_checks_pass_on_a_sound_index_and_say_what_is_wrong_with_another(farm: Farm) -> None:
    """A check that cannot fail is a decoration."""
    farm.configure("ebola")
    farm.backend.release(answer([record(n) for n in range(12)], etag='"e1"'))
    farm.run("ebola")

    sound = farm.checks()
    [index] = indexes(farm.output("ebola"))
    index.path.rename(index.path.with_name("moved"))
    broken = farm.checks()

    assert {name for name, (passed, _) in sound.items() if not passed} == set()
    assert set(sound) == set(CHECKS)
    assert {name for name, (passed, _) in broken.items() if not passed} == {"index_served"}
    assert "ebola" in broken["index_served"][1]


def test_an_index_that_is_not_served_is_asked_for_and_restored(farm: Farm) -> None:
    """An importer that died behind its commit leaves an index that only the ledger knows."""
    farm.configure("ebola")
    farm.backend.release(answer([record(n) for n in range(12)]))
    farm.run("ebola")
    [index] = indexes(farm.output("ebola"))
    index.path.rename(farm.home / "elsewhere")

    [asked] = requests(farm)
    restored = farm.run("ebola")

    assert asked.partition_key == "ebola"
    assert restored.success
    assert told(restored) == {}
    [again] = indexes(farm.output("ebola"))
    assert again.timestamp == index.timestamp
    assert requests(farm) == []
