"""One released record: checked, and turned from Loculus' nested shape into SILO's flat one.

Knows one line of JSON; its neighbours, the stream and the engine are others' business.
"""

from typing import Any

import orjson

# What the shape below is made of; a change of the transformation changes this, and with it the index.
TRANSFORM_VERSION = 1
SEQUENCES = ("alignedNucleotideSequences", "alignedAminoAcidSequences")
INSERTIONS = ("nucleotideInsertions", "aminoAcidInsertions")
# What a 64-bit number may have; Python itself refuses to read one of more than 4,300.
MOST_DIGITS = 18
KEYS = frozenset(["metadata", "unalignedNucleotideSequences", *SEQUENCES, *INSERTIONS])

type Json = dict[str, Any]


class Unfit(ValueError):
    """This line is no record; the message says what was found instead."""


def parse(line: bytes) -> Json:
    """The record of a line, its six keys and their types checked. Unfit; NaN and bad UTF-8 are not JSON."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Unfit(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise Unfit(f"expected an object, found {line[:80]!r}")
    if missing := KEYS - record.keys():
        raise Unfit(f"lacks {', '.join(sorted(missing))}; it has {', '.join(sorted(record)) or 'no key'}")
    for key in KEYS - set(INSERTIONS):
        if not isinstance(record[key], dict):
            raise Unfit(f"{key} is {_short(record[key])} where an object was expected")
    for key in INSERTIONS:
        if not isinstance(record[key] or {}, dict):
            raise Unfit(f"{key} is {_short(record[key])} where an object was expected")
    return record


def primary_key(metadata: Json, field: str) -> str:
    value = metadata.get(field)
    if not isinstance(value, str) or not value:
        raise Unfit(f"metadata.{field}, the primary key, is {_short(value)} where a text was expected")
    return value


def pipeline_version(metadata: Json) -> int | None:
    """The preprocessing version; "1" is 1. None where it is absent, empty or 0, as upstream counts it."""
    value = metadata.get("pipelineVersion")
    if isinstance(value, str) and (number := whole_number(value)) is not None:
        value = number
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Unfit(f"metadata.pipelineVersion is {_short(value)} where a whole number was expected")
    return value or None


def whole_number(text: str) -> int | None:
    """The number that a text is, or None: a sign, another letter, or more digits than a number has."""
    digits = text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS
    return int(text) if digits else None


def flatten(record: Json) -> Json:
    """SILO's shape: metadata at the top, then unaligned_<segment>, segments and genes.

    A sequence becomes {sequence, insertions}, null stays null, absent insertions are []. The record's
    metadata becomes the result, sequences are not copied. Unfit if two parts claim one name.
    """
    flat: Json = record["metadata"]
    for segment, letters in record["unalignedNucleotideSequences"].items():
        _put(flat, f"unaligned_{segment}", letters)
    for sequences, insertions in zip(SEQUENCES, INSERTIONS, strict=True):
        inserted: Json = record[insertions] or {}
        for name, letters in record[sequences].items():
            found = {"sequence": letters, "insertions": inserted.get(name) or []}
            _put(flat, name, None if letters is None else found)
    return flat


def _put(flat: Json, name: str, value: object) -> None:
    if name in flat:
        raise Unfit(
            f"{name!r} names two of its metadata fields, segments and genes: one would hide the other"
        )
    flat[name] = value


def dump(flat: Json) -> bytes:
    """One line of SILO's input, with its newline. Floats keep their value to the last bit.

    Unfit: metadata nested deeper than can be written (254 levels), though 1,024 can be read.
    """
    try:
        return orjson.dumps(flat, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError as error:
        raise Unfit(f"metadata cannot be written as JSON: {error}") from error


def _short(value: object) -> str:
    try:
        return orjson.dumps(value).decode()[:80]
    except orjson.JSONEncodeError:
        return f"a {type(value).__name__} too deep to be shown"
