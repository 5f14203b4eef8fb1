"""The configured weather models: the YAML files in this package, and a folder of the user's own.

Every mistake is told with its file, line and key, all mistakes at once. Reads files, no network, no clock.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib.resources import as_file, files
from pathlib import Path

from pydantic import ValidationError

from ingest_platform.errors import PermanentError
from ingest_platform.weather.keys import TemplateError, check_template
from ingest_platform.weather.model import Horizon, Kind, Model, Parameter
from ingest_platform.yaml_file import BadYamlFile, Mistake, read_yaml, said_by_schema


class BadModelFile(PermanentError):
    """A model's YAML file does not say what a model needs. Nothing was started with it."""


class UnknownModel(PermanentError):
    """Somebody asked for a model that no file describes, or that its file disables."""


def load_models(
    folder: Path | None = None, *, only: Sequence[str] | None = None, disabled_too: bool = False
) -> tuple[Model, ...]:
    """The enabled models, by id: those shipped, and those of `folder`, which win where an id is the same.

    `only` names ids, families or aliases; None or nothing means all. `disabled_too`: for those who tidy up:
    what a model published before it was disabled lies there. BadModelFile, UnknownModel.
    """
    with as_file(files("ingest_platform.weather") / "models") as shipped:
        models = _models_in(shipped)
    if folder is not None:
        models |= _models_in(folder)
    chosen = sorted(models.values(), key=lambda model: model.id)
    _check_names(chosen)
    candidates = [model for model in chosen if model.enabled or disabled_too]
    return _choose(candidates, chosen, [name.strip() for name in only or ()])


def read_model(path: Path) -> Model:
    """The model of one YAML file. BadModelFile with file, line and key of every mistake."""
    try:
        file = read_yaml(path)
    except BadYamlFile as error:
        raise _bad(str(error)) from error
    if not isinstance(file.content, dict):
        raise BadModelFile(f"{path}:1: a model is a mapping of settings. Compare docs/weather.md.")
    try:
        model = Model.model_validate(file.content)
    except ValidationError as error:
        raise _bad(file.told(said_by_schema(error, Model))) from error
    if mistakes := list(_misfits(model)):
        raise _bad(file.told(mistakes))
    return model


def _bad(told: str) -> BadModelFile:
    return BadModelFile(f"{told}\nNo model was loaded. docs/weather.md lists the settings.")


def _models_in(folder: Path) -> dict[str, Model]:
    if not folder.is_dir():
        raise BadModelFile(
            f"{folder}: no such folder. INGEST_WEATHER_MODELS names a folder with one YAML file a model; "
            "unset it to use only the models that are shipped."
        )
    models: dict[str, Model] = {}
    homes: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix in {".yaml", ".yml"} and p.name[0] != "."):
        model = read_model(path)
        if model.id in homes:
            raise BadModelFile(f"{path}: id {model.id!r} is already that of {homes[model.id]}. Rename one.")
        models[model.id], homes[model.id] = model, path
    return models


def _check_names(models: Sequence[Model]) -> None:
    """Each id or alias selects one model; a family may have the name of its only model."""
    owners = Counter(name for model in models for name in {model.id, *model.aliases})
    families = {model.family: model for model in models}
    for model in models:
        for name in {model.id, *model.aliases}:
            taken = name in families and any(m.family == name and m.id != model.id for m in models)
            if owners[name] > 1 or taken:
                raise BadModelFile(
                    f"{model.id}: the name {name!r} also belongs to another model or family. "
                    f"Names taken: {', '.join(sorted(owners | Counter(families.keys())))}."
                )


def _choose(candidates: Sequence[Model], models: Sequence[Model], names: Sequence[str]) -> tuple[Model, ...]:
    if not names:
        return tuple(candidates)
    known = {name: None for model in candidates for name in (model.id, model.family, *model.aliases)}
    for name in names:
        if name in known:
            continue
        if any(name in _names(model) for model in models):
            raise UnknownModel(f"Model {name!r} is disabled in its YAML file. Set enabled: true to use it.")
        guess = get_close_matches(name, known, n=1)
        raise UnknownModel(
            f"No model is called {name!r}. Known: {', '.join(known)}."
            + (f" Did you mean {guess[0]}?" if guess else "")
        )
    return tuple(model for model in candidates if _names(model) & set(names))


def _names(model: Model) -> set[str]:
    return {model.id, model.family, *model.aliases}


def _misfits(model: Model) -> Iterator[Mistake]:
    """What the schema cannot say: settings that do not go with the kind, or with each other."""
    for n, source in enumerate(model.sources):
        try:
            check_template(model.kind, source.key)
        except TemplateError as error:
            yield ("sources", n, "key"), str(error)
        if source.index is not None and model.kind is not Kind.FORECAST:
            yield ("sources", n, "index"), f"a {model.kind} object has no inventory; leave index out"
    yield from _misfit_cycles(model)
    for n, parameter in enumerate(model.parameters):
        yield from (
            (("parameters", n), f"{parameter.name}: {what}") for what in _missing(model.kind, parameter)
        )
    selectors = Counter(_selector(parameter) for parameter in model.parameters)
    for n, parameter in enumerate(model.parameters):
        if selectors[_selector(parameter)] > 1:
            yield ("parameters", n), f"{parameter.name}: selects the same messages as another parameter"


def _misfit_cycles(model: Model) -> Iterator[Mistake]:
    if model.kind is not Kind.FORECAST:
        if model.horizons:
            yield ("horizons",), f"a {model.kind} model has no leads; leave horizons out"
        return
    if not model.horizons:
        yield (), "a forecast needs horizons: which cycles run to which leads"
    if model.cadence_minutes % 60 or 24 % max(1, model.cadence_minutes // 60):
        yield (
            ("cadence_minutes",),
            f"{model.cadence_minutes} min between cycles do not divide a day into hours",
        )
        return
    counts = Counter(hour for horizon in model.horizons for hour in set(horizon.cycles))
    for n, horizon in enumerate(model.horizons):
        yield from (
            (("horizons", n, "cycles"), what)
            for what in _misfit_hours(model.partition_hours, horizon, counts)
        )


def _misfit_hours(step: int, horizon: Horizon, counts: Counter[int]) -> Iterator[str]:
    if off := [hour for hour in horizon.cycles if hour % step]:
        yield f"cycles {off} do not fit a cadence of {step} h"
    if twice := [hour for hour in horizon.cycles if counts[hour] > 1]:
        yield f"cycles {twice} stand in two horizons"


def _missing(kind: Kind, parameter: Parameter) -> Iterator[str]:
    """What this kind needs of a parameter and does not find."""
    match kind:
        case Kind.FORECAST:
            if parameter.variable is None:
                yield "a forecast parameter needs variable, the wgrib2 name"
            if (parameter.level is None) == (not parameter.levels_hpa):
                yield "a forecast parameter needs either level or levels_hpa"
        case Kind.SATELLITE if parameter.band is None:
            yield "a satellite parameter needs band"
        case Kind.RADAR if parameter.product is None:
            yield "a radar parameter needs product"
    if kind is not Kind.SATELLITE and not parameter.grib:
        yield "needs grib, e.g. [[0, 0, 0]]: discipline, category and number prove what a message holds"


def _selector(parameter: Parameter) -> tuple[object, ...]:
    return (parameter.variable, parameter.levels(), parameter.window, parameter.product, parameter.band)
