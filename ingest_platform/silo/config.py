"""The configured organisms: one YAML file for an installation, or the environment of a drop-in container.

Every mistake is told with its file, line and key, all mistakes at once. Reads files, no network, no clock.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ingest_platform.errors import PermanentError
from ingest_platform.silo.model import Organism

type Place = tuple[str | int, ...]  # keys and positions from the top of the file
type Mistake = tuple[Place, str]

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
    "HIERARCHICAL_FILTERS": ("off", "Not supported: anything but {} is refused"),
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
    node, given = _read(path)
    entries = given.get("organisms") if isinstance(given, dict) and set(given) == {"organisms"} else None
    if not isinstance(entries, list):
        raise _bad(path, node, [((), "expected one key, organisms, with a list")])
    organisms, mistakes = _organisms(entries, path.parent)
    if mistakes:
        raise _bad(path, node, mistakes)
    return _choose(path, sorted(organisms, key=lambda organism: organism.id), only or ())


def _read(path: Path) -> tuple[yaml.Node | None, Any]:
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        twice = list(_keys_given_twice(node))
        given = loader.construct_document(node) if node and not twice else None
    except (OSError, UnicodeDecodeError) as error:
        raise BadOrganismFile(f"{path}: cannot be read ({error}). Nothing was started.") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadOrganismFile(f"{path}:{line}: not YAML: {error.problem}. Nothing was started.") from error
    except yaml.YAMLError as error:
        raise BadOrganismFile(f"{path}: not YAML: {error}. Nothing was started.") from error
    if twice:
        raise _bad(path, node, twice)
    return node, given


def _organisms(entries: list[Any], folder: Path) -> tuple[list[Organism], list[Mistake]]:
    organisms: list[Organism] = []
    mistakes: list[Mistake] = []
    for n, entry in enumerate(entries):
        try:
            organism = Organism.model_validate(_with_absolute_paths(entry, folder))
        except ValidationError as error:
            mistakes += _said_by_schema(error, ("organisms", n))
            continue
        if taken := next((o for o in organisms if o.id == organism.id), None):
            mistakes.append((("organisms", n, "id"), f"{taken.id!r} is already another organism's"))
        if taken := next((o for o in organisms if o.output == organism.output), None):
            mistakes.append((("organisms", n, "output"), f"{organism.output} is already {taken.id}'s"))
        organisms.append(organism)
    return organisms, mistakes


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
    if _json(given, "HIERARCHICAL_FILTERS", mistakes):
        # An index without the file that its database config names could not be built anyway.
        mistakes.append("HIERARCHICAL_FILTERS: this importer asks no taxonomy service; unset it")
    root = Path(given.get("ROOT_DIR", "/")) / "preprocessing"
    settings = {
        "id": url.rsplit("/", 1)[-1],
        "backend_url": url,
        "lineage_definitions": _systems(_json(given, "LINEAGE_DEFINITIONS", mistakes)),
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
        mistakes += [f"{_variable(place)}: {what}" for place, what in _said_by_schema(error, ())]
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
        "hard_refresh_seconds": "HARD_REFRESH_INTERVAL",
        "poll_interval_seconds": "SILO_IMPORT_POLL_INTERVAL_SECONDS",
        "engine": "SILO_RUN_TIMEOUT_SECONDS",
    }
    return (
        ".".join([names.get(str(place[0]), str(place[0])), *map(str, place[1:])]) if place else "environment"
    )


def _said_by_schema(error: ValidationError, above: Place) -> list[Mistake]:
    mistakes: list[Mistake] = []
    for fault in error.errors(include_url=False):
        what = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            known = [*Organism.model_fields, *_ENGINE_PATHS]
            guess = get_close_matches(str(fault["loc"][-1]), known, n=1)
            what = "no such setting" + (f". Did you mean {guess[0]}?" if guess else "")
        elif fault["type"] != "missing" and not isinstance(fault["input"], dict):
            what += f", found {fault['input']!r}"
        mistakes.append(((*above, *(part for part in fault["loc"] if part != "[key]")), what))
    return mistakes


def _bad(path: Path, node: yaml.Node | None, mistakes: Sequence[Mistake]) -> BadOrganismFile:
    told = [f"{path}:{_line(node, place)}: {_dotted(place)}{what}" for place, what in mistakes]
    told.append("Nothing was started. docs/silo.md lists the settings.")
    return BadOrganismFile("\n".join(told))


def _line(node: yaml.Node | None, place: Place) -> int:
    """Line, from 1, of the last part of `place` that the file has."""
    line = node.start_mark.line if node else 0
    for step in place:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(step)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line
        else:
            break
    return line + 1


def _keys_given_twice(node: yaml.Node | None, place: Place = ()) -> Iterator[Mistake]:
    """YAML would quietly take the last one."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield (*place, key.value), "given twice"
            seen.add(key.value)
            yield from _keys_given_twice(value, (*place, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for n, value in enumerate(node.value):
            yield from _keys_given_twice(value, (*place, n))


def _dotted(place: Place) -> str:
    """organisms[0].output: as a person points at it; nothing for the file as a whole."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return f"{text.removeprefix('.')}: " if text else ""
