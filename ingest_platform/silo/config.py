"""The configured organisms: one YAML file for an installation, or the environment of a drop-in container.

Every mistake is told with its file, line and key, all mistakes at once. Reads files, no network, no clock.
"""

import json
import os.path
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ingest_platform.errors import PermanentError
from ingest_platform.silo.model import Organism
from ingest_platform.yaml_file import BadYamlFile, Mistake, Place, read_yaml, said_by_schema

# A flat map of versions was the format of the first importer; its file had this name.
ONLY_SYSTEM = "lineage_definitions"
# Name → its default and meaning. The seed's container is configured by these.
ENVIRONMENT: Mapping[str, tuple[str, str]] = {
    "BACKEND_BASE_URL": ("required", "http://host:8079/<organism>; the last part names the organism"),
    "LINEAGE_DEFINITIONS": (
        "off",
        'JSON: {"<system>": {"<pipeline version>": "<url>"}}, or {"<version>": "<url>"} for'
        " lineage_definitions.yaml",
    ),
    "HIERARCHICAL_FILTERS": (
        "off",
        'JSON: {"<metadata field>": "<url>"} of the service that makes <field>.yaml for the field\'s values',
    ),
    "HARD_REFRESH_INTERVAL": ("3600", "Seconds after which everything is looked at again; 0: at each poll"),
    "SILO_IMPORT_POLL_INTERVAL_SECONDS": ("30", "Seconds between two polls"),
    "SILO_RUN_TIMEOUT_SECONDS": ("3600", "Seconds until a build is killed"),
    "ROOT_DIR": ("/", "Parent of preprocessing/input and preprocessing/output"),
    "PATH_TO_SILO_BINARY": ("none: the sentinel engine", "The engine's binary, run as a child process"),
    "PREPROCESSING_CONFIG": (
        "/app/preprocessing_config.yaml, none for the sentinel engine",
        "SILO's configuration, its files beside it or in preprocessing/input; without it lineage values are"
        " not checked",
    ),
}


class BadOrganismFile(PermanentError):
    """The organisms' YAML file, or the environment, does not say what it must. Nothing was started."""


def load_organisms(path: Path, *, only: Sequence[str] | None = None) -> tuple[Organism, ...]:
    """The organisms of a YAML file, by id: {organisms: [{id: ..., backend_url: ...}, ...]}.

    `only` names ids; None or nothing means all. Relative paths count from the file's folder.
    BadOrganismFile.
    """
    try:
        file = read_yaml(path)
    except BadYamlFile as error:
        raise _bad(str(error)) from error
    given = file.content
    entries = given.get("organisms") if isinstance(given, dict) and set(given) == {"organisms"} else None
    if not isinstance(entries, list):
        raise _bad(file.told([((), "expected one key, organisms, with a list")]))
    organisms, mistakes = _organisms(entries, path.parent)
    if mistakes:
        raise _bad(file.told(mistakes))
    return _choose(path, sorted(organisms, key=lambda organism: organism.id), only or ())


def _bad(told: str) -> BadOrganismFile:
    return BadOrganismFile(f"{told}\nNothing was started. docs/silo.md lists the settings.")


def _organisms(entries: list[Any], folder: Path) -> tuple[list[Organism], list[Mistake]]:
    organisms: list[Organism] = []
    mistakes: list[Mistake] = []
    for n, entry in enumerate(entries):
        try:
            organism = Organism.model_validate(_with_absolute_paths(entry, folder))
        except ValidationError as error:
            mistakes += said_by_schema(error, Organism, above=("organisms", n))
            continue
        if taken := next((o for o in organisms if o.id == organism.id), None):
            mistakes.append((("organisms", n, "id"), f"{taken.id!r} is already another organism's"))
        if taken := next((o for o in organisms if _one_place(o.output, organism.output)), None):
            mistakes.append((("organisms", n, "output"), f"{organism.output} is already {taken.id}'s"))
        exchange = organism.engine.exchange
        if taken := next((o for o in organisms if _one_place(o.engine.exchange, exchange)), None):
            # Each would take the other's report for its own, and the runner one's records for the other's.
            mistakes.append((("organisms", n, "engine", "exchange"), f"{exchange} is already {taken.id}'s"))
        organisms.append(organism)
    return organisms, mistakes


def _one_place(one: Path | None, other: Path | None) -> bool:
    return one is not None and other is not None and os.path.realpath(one) == os.path.realpath(other)


def _with_absolute_paths(entry: Any, folder: Path) -> Any:
    if not isinstance(entry, dict):
        return entry
    settled = {key: folder / entry[key] for key in _PATHS if isinstance(entry.get(key), str)}
    engine = entry.get("engine")
    if isinstance(engine, dict):
        paths = {key: folder / engine[key] for key in _ENGINE_PATHS if isinstance(engine.get(key), str)}
        settled["engine"] = engine | paths
    return entry | settled


_PATHS = ("preprocessing_config", "database_folder", "output")
_ENGINE_PATHS = ("binary", "exchange")


def _choose(path: Path, organisms: Sequence[Organism], only: Sequence[str]) -> tuple[Organism, ...]:
    known = [organism.id for organism in organisms]
    for name in only:
        if name not in known:
            guess = get_close_matches(name, known, n=1)
            raise BadOrganismFile(
                f"{path}: no organism is called {name!r}. Known: {', '.join(known) or 'none'}."
                + (f" Did you mean {guess[0]}?" if guess else "")
            )
    return tuple(organism for organism in organisms if not only or organism.id in only)


def organism_from_environment(environ: Mapping[str, str]) -> Organism:
    """The one organism of a container with the seed's variables. BadOrganismFile with every mistake."""
    given = {name: value for name, value in environ.items() if value and name in ENVIRONMENT}
    mistakes: list[str] = []
    url = given.get("BACKEND_BASE_URL", "").rstrip("/")
    if not url:
        mistakes.append("BACKEND_BASE_URL: expected http://host:8079/<organism>, found nothing")
    root = Path(given.get("ROOT_DIR", "/")) / "preprocessing"
    settings = {
        # A password, which is refused below, is not to be shown as a wrong id.
        "id": url.rsplit("/", 1)[-1].rpartition("@")[2],
        "backend_url": url,
        "lineage_definitions": _systems(_json(given, "LINEAGE_DEFINITIONS", mistakes)),
        "hierarchical_filters": _json(given, "HIERARCHICAL_FILTERS", mistakes),
        "preprocessing_config": given.get("PREPROCESSING_CONFIG", _config_beside_the_binary(given)),
        "database_folder": _mounted_inputs(root / "input"),
        "output": root / "output",
        "hard_refresh_seconds": given.get("HARD_REFRESH_INTERVAL", "3600"),
        "poll_interval_seconds": given.get("SILO_IMPORT_POLL_INTERVAL_SECONDS", "30"),
        "engine": _engine(given, root),
    }
    try:
        organism = Organism.model_validate(settings) if not mistakes else None
    except ValidationError as error:
        mistakes += [f"{_variable(place)}: {what}" for place, what in said_by_schema(error, Organism)]
        organism = None
    if organism is None:
        raise BadOrganismFile("\n".join([*mistakes, "Nothing was started: correct the environment."]))
    return organism


def _json(given: Mapping[str, str], name: str, mistakes: list[str]) -> dict[str, Any]:
    try:
        value = json.loads(given.get(name, "{}"))
    except ValueError as error:
        mistakes.append(f"{name}: not JSON: {error}")
        return {}
    if not isinstance(value, dict):
        mistakes.append(f"{name}: expected a JSON object, found {given[name][:80]!r}")
        return {}
    return value


def _systems(definitions: dict[str, Any]) -> dict[str, Any]:
    flat = definitions and all(isinstance(url, str) for url in definitions.values())
    return {ONLY_SYSTEM: definitions} if flat else definitions


def _engine(given: Mapping[str, str], root: Path) -> dict[str, Any]:
    timeout = {"timeout_seconds": given.get("SILO_RUN_TIMEOUT_SECONDS", "3600")}
    if binary := given.get("PATH_TO_SILO_BINARY"):
        return {"kind": "cli", "binary": binary, **timeout}
    return {"kind": "sentinel", "exchange": root / "input", **timeout}


def _config_beside_the_binary(given: Mapping[str, str]) -> str | None:
    return "/app/preprocessing_config.yaml" if "PATH_TO_SILO_BINARY" in given else None


def _mounted_inputs(folder: Path) -> Path | None:
    """Loculus mounts SILO's files there, and their preprocessing_config.yaml elsewhere. None: it does not."""
    # Not at load: it brings numpy into every process that only reads the organisms.
    from ingest_platform.silo.database import DATABASE_CONFIG

    return folder if (folder / DATABASE_CONFIG).exists() else None


def _variable(place: Place) -> str:
    """The variable that a setting came from, and where in it."""
    names = {
        "id": "BACKEND_BASE_URL",
        "backend_url": "BACKEND_BASE_URL",
        "lineage_definitions": "LINEAGE_DEFINITIONS",
        "hierarchical_filters": "HIERARCHICAL_FILTERS",
        "hard_refresh_seconds": "HARD_REFRESH_INTERVAL",
        "poll_interval_seconds": "SILO_IMPORT_POLL_INTERVAL_SECONDS",
        "engine": "SILO_RUN_TIMEOUT_SECONDS",
    }
    return (
        ".".join([names.get(str(place[0]), str(place[0])), *map(str, place[1:])]) if place else "environment"
    )
