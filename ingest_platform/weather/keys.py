"""What a key in a NOAA bucket says, and which keys to ask for: one template language for all kinds.

A template reads a key strictly (nothing but exactly a configured object passes) and renders the literal
beginning that a set of keys shares, for listings. Pure; no network, no clock.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import cache
from typing import Literal

from ingest_platform.weather.model import Kind, Model, Source, SourceFile

Value = datetime | int | str
Precision = Literal["day", "hour", "minute"]

TIME_FIELDS = {
    "cycle": "initialisation of the forecast",
    "valid": "time the values are valid for",
    "start": "start of the scan",
    "end": "end of the scan",
    "created": "creation of the file",
}
NUMBER_FIELDS = {
    "lead": "hours after the cycle",
    "band": "ABI band",
    "mode": "ABI scan mode; any is taken",
}
TEXT_FIELDS = {"product": "radar product with its level; never contains /"}
FIELDS = TIME_FIELDS | NUMBER_FIELDS | TEXT_FIELDS

# Digits of each part of a time. "t" is the tenth of a second that ends an ABI stamp.
_DIGITS = {"Y": 4, "j": 3, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2, "t": 1}
# A time field without a format is ABI's stamp of 14 digits, YYYYDDDHHMMSSt.
_STAMP = "%Y%j%H%M%S%t"
_KNOWN_AT: Mapping[Precision, str] = {"day": "Yjmd", "hour": "YjmdH", "minute": "YjmdHM"}


class TemplateError(ValueError):
    """The template cannot be understood; the message says where and what would be."""


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a template: a literal, or one number or text of a field."""

    literal: str = ""
    field: str = ""
    code: str = ""  # of a time: a letter of _DIGITS
    width: int = 0  # of a number: padded with zeros to this

    @property
    def pattern(self) -> str:
        if not self.field:
            return re.escape(self.literal)
        if self.code:
            return f"([0-9]{{{_DIGITS[self.code]}}})"
        return f"([0-9]{{{self.width or 1},}})" if self.field in NUMBER_FIELDS else "([^/]+)"

    def render(self, value: Value) -> str:
        if isinstance(value, datetime):
            return _time_part(value, self.code)
        return f"{value:0{self.width}d}" if isinstance(value, int) else value


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled key template."""

    text: str
    parts: tuple[Part, ...]
    pattern: re.Pattern[str]

    @property
    def fields(self) -> frozenset[str]:
        return frozenset(part.field for part in self.parts if part.field)

    def codes(self, field: str) -> frozenset[str]:
        """Which parts of a time the key carries."""
        return frozenset(part.code for part in self.parts if part.field == field)

    def folder_has(self, code: str) -> bool:
        """Is this part of a time in the key before its last slash?"""
        last_slash = max((n for n, part in enumerate(self.parts) if "/" in part.literal), default=-1)
        return any(part.code == code for part in self.parts[: last_slash + 1])

    def read(self, key: str) -> Mapping[str, Value] | None:
        """The fields of a key; None if it is not exactly what this template writes.

        Rendering the fields again must give the same key: so a date that stands twice agrees with itself.
        """
        match = self.pattern.fullmatch(key)
        if match is None:
            return None
        try:
            values = self._values(match.groups())
        except ValueError:  # a 30th of February
            return None
        return values if self.render(values) == key else None

    def render(self, values: Mapping[str, Value]) -> str:
        return "".join(part.render(values[part.field]) if part.field else part.literal for part in self.parts)

    def prefix(self, known: Mapping[str, Value], precision: Precision) -> str:
        """What all keys with these fields begin with; times are known to `precision`."""
        text = ""
        for part in self.parts:
            if part.field and part.field not in known:
                break
            if part.code and part.code not in _KNOWN_AT[precision]:
                break
            text += part.render(known[part.field]) if part.field else part.literal
        return text

    def _values(self, groups: tuple[str, ...]) -> dict[str, Value]:
        values: dict[str, Value] = {}
        times: dict[str, dict[str, int]] = {}
        for part, text in zip((p for p in self.parts if p.field), groups, strict=True):
            if part.code:
                times.setdefault(part.field, {}).setdefault(part.code, int(text))
            else:
                values.setdefault(part.field, int(text) if part.field in NUMBER_FIELDS else text)
        return values | {field: _moment(numbers) for field, numbers in times.items()}


@cache
def template(text: str) -> Template:
    """Compile a key template. TemplateError if it cannot be understood."""
    parts = tuple(part for piece in re.split(r"(\{[^{}]*\})", text) for part in _parts(piece, text))
    return Template(text, parts, re.compile("".join(part.pattern for part in parts)))


def check_template(kind: Kind, text: str) -> None:
    """TemplateError unless the template tells all that this kind of object needs."""
    compiled = template(text)
    time_field, others = _NEEDED[kind]
    missing = sorted({time_field, *others} - compiled.fields)
    if missing:
        raise TemplateError(
            f"a {kind} key needs {', '.join(f'{{{m}}}' for m in missing)}, and {text!r} has none"
        )
    codes = compiled.codes(time_field)
    if not ({"Y", "H"} <= codes and ("j" in codes or {"m", "d"} <= codes)):
        raise TemplateError(f"{{{time_field}}} in {text!r} must tell year, day (%j, or %m and %d) and hour")


def parse(model: Model, bucket: str, key: str) -> SourceFile | None:
    """The object that this key names; None for anything that the model does not take."""
    for source in model.sources:
        if source.bucket != bucket or (fields := template(source.key).read(key)) is None:
            continue
        file = _source_file(model, source, key, fields)
        if source.holds_at(file.event_time) and is_wanted(model, file):
            return file
    return None


def is_wanted(model: Model, file: SourceFile) -> bool:
    """Is this one of the leads, bands or products that the model's settings name?"""
    match model.kind:
        case Kind.FORECAST:
            hours = model.expected_leads(file.event_time) if file.event_time.minute == 0 else ()
            return file.lead is not None and file.lead // timedelta(hours=1) in hours
        case Kind.SATELLITE:
            return any(file.band == parameter.band for parameter in model.parameters)
        case Kind.RADAR:
            return any(file.product == parameter.product for parameter in model.parameters)


# Per kind: the field that carries the event time, and the others that a key must carry.
_NEEDED: Mapping[Kind, tuple[str, tuple[str, ...]]] = {
    Kind.FORECAST: ("cycle", ("lead",)),
    # `created` orders two files of one scan: they have different keys.
    Kind.SATELLITE: ("start", ("band", "created")),
    Kind.RADAR: ("valid", ("product",)),
}


def event_field(kind: Kind) -> str:
    """Name of the template field that carries the event time."""
    return _NEEDED[kind][0]


def _source_file(model: Model, source: Source, key: str, fields: Mapping[str, Value]) -> SourceFile:
    def take[T](field: str, kind: type[T]) -> T | None:
        value = fields.get(field)
        return value if isinstance(value, kind) else None

    lead = take("lead", int)
    if (event_time := take(event_field(model.kind), datetime)) is None:
        raise TemplateError(f"{source.key!r} tells no {event_field(model.kind)}")
    return SourceFile(
        model=model.id,
        bucket=source.bucket,
        key=key,
        source=source,
        event_time=event_time,
        lead=None if lead is None else timedelta(hours=lead),
        band=take("band", int),
        product=take("product", str),
        created=take("created", datetime),
    )


def _parts(piece: str, whole: str) -> tuple[Part, ...]:
    if not piece.startswith("{"):
        if "{" in piece or "}" in piece:
            raise TemplateError(f"a brace without its partner in {whole!r}")
        return (Part(literal=piece),) if piece else ()
    field, _, form = piece[1:-1].partition(":")
    if field in TIME_FIELDS:
        return _time_parts(field, form or _STAMP, whole)
    if field in NUMBER_FIELDS and re.fullmatch(r"(0[1-9])?", form):
        return (Part(field=field, width=int(form or 0)),)
    if field in TEXT_FIELDS and not form:
        return (Part(field=field),)
    if field in FIELDS:
        raise TemplateError(
            f"format {form!r} of {{{field}}} in {whole!r}; a number takes 01 to 09, a text none"
        )
    guess = get_close_matches(field, FIELDS, n=1)
    raise TemplateError(
        f"unknown field {{{field}}} in {whole!r}; known: {', '.join(FIELDS)}"
        + (f". Did you mean {guess[0]}?" if guess else "")
    )


def _time_parts(field: str, form: str, whole: str) -> tuple[Part, ...]:
    parts = []
    for text in re.findall(r"%.?|[^%]+", form):
        if not text.startswith("%"):
            parts.append(Part(literal=text))
        elif text[1:] in _DIGITS:
            parts.append(Part(field=field, code=text[1:]))
        else:
            raise TemplateError(
                f"{text!r} of {{{field}}} in {whole!r}; known: {', '.join('%' + c for c in _DIGITS)}"
            )
    return tuple(parts)


def _moment(numbers: Mapping[str, int]) -> datetime:
    # An `end` or `created` may stand without its year; 2000 has every day of the calendar.
    first = datetime(numbers.get("Y", 2000), numbers.get("m", 1), numbers.get("d", 1), tzinfo=UTC)
    day = first if "j" not in numbers else first.replace(month=1, day=1) + timedelta(days=numbers["j"] - 1)
    # replace() and not a sum: an hour 24 is a damaged key, not the next day.
    return day.replace(
        hour=numbers.get("H", 0),
        minute=numbers.get("M", 0),
        second=numbers.get("S", 0),
        microsecond=numbers.get("t", 0) * 100_000,
    )


def _time_part(moment: datetime, code: str) -> str:
    number = {
        "Y": moment.year,
        "j": moment.timetuple().tm_yday,
        "m": moment.month,
        "d": moment.day,
        "H": moment.hour,
        "M": moment.minute,
        "S": moment.second,
        "t": moment.microsecond // 100_000,
    }[code]
    return f"{number:0{_DIGITS[code]}d}"
