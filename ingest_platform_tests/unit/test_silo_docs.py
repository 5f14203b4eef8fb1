"""docs/silo.md and the files of the container say what the code does."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from ingest_platform.silo.config import ENVIRONMENT, load_organisms, organism_from_environment
from ingest_platform.silo.defs import CHECKS
from ingest_platform.silo.model import EngineSettings, Organism, Timeouts
from ingest_platform.silo.reference import PAGE, with_tables

ROOT = PAGE.parents[1]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "silo-import-image.yml").read_text())
REMEDY = "Run: python -m ingest_platform.silo.reference"


def test_the_tables_in_the_page_are_the_generated_ones() -> None:
    """Else a user sets what the code no longer knows."""
    page = PAGE.read_text(encoding="utf-8")

    assert page == with_tables(page), REMEDY


@pytest.mark.parametrize("section", [Organism, Timeouts, EngineSettings])
def test_every_setting_says_what_it_means(section: type[BaseModel]) -> None:
    """Else the table has holes where a user looks for help."""
    assert [name for name, field in section.model_fields.items() if not field.description] == []


def test_the_example_of_an_organism_loads(tmp_path: Path) -> None:
    """Else the first thing a user copies fails."""
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "organisms.yaml").write_text(example, encoding="utf-8")

    [organism] = load_organisms(tmp_path / "organisms.yaml")

    assert sorted(organism.lineage_definitions["lineages"]) == [1, 2]


def test_the_page_lists_the_checks_that_there_are() -> None:
    """Else somebody looks for a check that is gone, or does not know one that is red."""
    listed = re.findall(r"^\| `(\w+)` \| .*", PAGE.read_text(encoding="utf-8"), re.MULTILINE)

    assert [name for name in listed if name in CHECKS] == list(CHECKS)


def test_the_image_starts_the_command_that_the_package_has() -> None:
    """A drop-in image that does not start is no drop-in image; only a machine with Docker would notice."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    [command] = re.findall(r'^ENTRYPOINT \["([\w-]+)"\]$', DOCKERFILE, re.MULTILINE)

    assert command in scripts


def test_the_image_is_built_with_the_uv_of_the_makefile() -> None:
    """Another uv may read the lock file otherwise."""
    [version] = re.findall(r"^UV_VERSION := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert f"uv=={version}" in DOCKERFILE


def test_the_image_does_not_run_as_root() -> None:
    """Many clusters refuse to start one that does."""
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL))

    assert re.search(r"^USER [1-9]\d*", stages["silo-import"], re.MULTILINE)
    assert "FROM silo-import AS loculus-silo" in DOCKERFILE
    assert "USER" not in stages["loculus-silo"]


def test_the_image_with_silo_runs_it_itself() -> None:
    """A plain `docker run` would wait for an hour for another container that nobody started."""
    (stage,) = re.findall(r"^FROM silo-import AS loculus-silo\n(.*)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    [binary] = re.findall(r"^ENV PATH_TO_SILO_BINARY=(\S+)$", stage, re.MULTILINE)

    assert f"COPY --from=silo-program {binary} {binary}\n" in stage
    environ = {"BACKEND_BASE_URL": "http://host/x", "PATH_TO_SILO_BINARY": binary}
    assert organism_from_environment(environ).engine.kind == "cli"
    environ["PATH_TO_SILO_BINARY"] = ""
    assert organism_from_environment(environ).engine.kind == "sentinel"


def test_the_workflow_builds_the_target_that_the_dockerfile_has() -> None:
    """Else every push fails, or pushes the builder."""
    [build] = [step for step in WORKFLOW["jobs"]["image"]["steps"] if step.get("id") == "build"]

    assert f" AS {build['with']['target']}\n" in DOCKERFILE
    assert (ROOT / build["with"]["file"]).exists()


def test_what_the_image_copies_is_not_ignored() -> None:
    """A .dockerignore that hides a source breaks the build on other machines only."""
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for name in line.split()[:-1]
    }

    assert copied <= kept
    assert all((ROOT / name).exists() for name in copied)


def test_the_helm_values_name_variables_that_the_container_knows() -> None:
    """A value whose variable nobody reads changes nothing, and looks as if it did."""
    values = (ROOT / "deploy" / "helm" / "silo-values.yaml").read_text()
    named = set(re.findall(r"\b(?:[A-Z]+_)+[A-Z]+\b", values))

    assert named <= set(ENVIRONMENT)
    assert {"HARD_REFRESH_INTERVAL", "SILO_RUN_TIMEOUT_SECONDS"} <= named
    given = yaml.safe_load(values)["siloImport"]
    assert [str(given[name]) for name in ("siloTimeoutSeconds", "hardRefreshIntervalSeconds")] == [
        ENVIRONMENT["SILO_RUN_TIMEOUT_SECONDS"][0],
        ENVIRONMENT["HARD_REFRESH_INTERVAL"][0],
    ]
