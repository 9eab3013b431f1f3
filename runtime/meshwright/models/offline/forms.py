"""What the built-in model makes to a form: a JSON value by a schema, and a context made shorter."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from heapq import nlargest
from typing import Any, NamedTuple

from meshwright.models.offline.reading import centrality, quote, relevance, terms
from meshwright.models.schema import InvalidSchema, target

MAX_STEPS = 4_000
"""Parts of a schema and pieces of the value, all together, that one fill may take."""
NUMBER = re.compile(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,15})?\b")
_PIECE_CHARACTERS = 64  # of text that are one step
_MAX_TEXTS = 50  # that fields are filled from
_MAX_ABOUT = 300  # characters that say what a field is for
_MAX_DEPTH = 32
_OPTIONAL_DEPTH = 6  # below it only what is required
_MAX_ITEMS = 3
_MAX_NUMBER = 10**15
_FORMATS = {
    "date-time": "1970-01-01T00:00:00Z",
    "date": "1970-01-01",
    "time": "00:00:00Z",
    "email": "nobody@example.org",
    "uri": "https://example.org/",
    "url": "https://example.org/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "127.0.0.1",
    "duration": "PT0S",
    "hostname": "example.org",
}
_Schema = Mapping[str, Any]


class SchemaFiller:
    """Fills one schema that `check_schema` has accepted, in at most MAX_STEPS steps.

    Each text is the passage that fits its field's name and description best. Knows types, enum, const,
    references within the schema, anyOf, oneOf, allOf, formats and limits of length and size; not `pattern`.
    """

    def __init__(self, schema: _Schema, texts: Sequence[str], question: str) -> None:
        self.schema = schema
        self.question = quote(question)
        scores = relevance(texts, terms(self.question))
        best = nlargest(_MAX_TEXTS, range(len(texts)), key=lambda place: (scores[place], -place))
        self.texts = [quote(texts[place]) for place in sorted(best)] or [self.question]
        self.steps = 0

    def value(self) -> Any:
        """The value for the whole schema. Raises InvalidSchema where it is too large."""
        return self._fill(self.schema, self.question, 0)

    def _spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise _unfit("the value that the schema asks for is too large for the offline model")

    def _fill(self, schema: _Schema | bool, about: str, depth: int) -> Any:
        """A value for a part of the schema; `about` says what it is for."""
        self._spend(1)
        if isinstance(schema, bool):
            return None
        schema = self._resolved(schema, depth)
        about = f"{about} {schema.get('description', '')[:_MAX_ABOUT]}"[:_MAX_ABOUT]
        for name in ("const", "default", "enum"):
            if name in schema and (name != "default" or depth > 0):
                self._spend(1 + len(json.dumps(schema[name])) // _PIECE_CHARACTERS)
                if name != "enum":
                    return schema[name]
                return nearest(schema["enum"], f"{self.question} {self._ranked(about)[0]}")
        for name in ("anyOf", "oneOf"):
            if choices := schema.get(name):
                return self._fill(self._choice(choices, depth), about, depth + 1)
        return self._by_type(_type_of(schema), schema, about, depth)

    def _choice(self, choices: Sequence[Any], depth: int) -> Any:
        """Of several schemas the first that is not null; deep down null, if it may be."""
        self._spend(len(choices))
        nulls = [each for each in choices if isinstance(each, dict) and each.get("type") == "null"]
        others = [each for each in choices if each not in nulls]
        return ((nulls or others) if depth > _OPTIONAL_DEPTH or not others else others)[0]

    def _by_type(self, kind: str, schema: _Schema, about: str, depth: int) -> Any:
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, about, depth)
        if kind in ("integer", "number"):
            return _number(schema, self._ranked(about)[0], kind)
        if kind != "string":
            return False if kind == "boolean" else None
        known = _FORMATS.get(schema.get("format", ""))
        return known or self._limited(self._ranked(about)[0], schema)

    def _object(self, schema: _Schema, depth: int) -> dict[str, Any]:
        """An object with all its properties; deep down or in a large value only with those required."""
        properties = schema.get("properties", {})
        required = dict.fromkeys(schema.get("required", ()))
        self._spend(len(properties) // _PIECE_CHARACTERS)
        made = {}
        for name in {**required, **properties}:
            if name in required or (depth < _OPTIONAL_DEPTH and self.steps < MAX_STEPS // 2):
                self._spend(len(name) // _PIECE_CHARACTERS)
                part = properties.get(name, {"type": "string"})
                made[name] = self._fill(part, name[:_MAX_ABOUT], depth + 1)
        return made

    def _array(self, schema: _Schema, about: str, depth: int) -> list[Any]:
        """A list: of texts the best passages, of anything else as few as there may be."""
        least = int(schema.get("minItems", 0))
        most = int(schema.get("maxItems", max(least, _MAX_ITEMS)))
        items = schema.get("items", {"type": "string"})
        if isinstance(items, list):
            items = items[0] if items else {}
        self._spend(least)
        resolved = self._resolved(items, depth) if isinstance(items, Mapping) else {}
        if _type_of(resolved) != "string" or not resolved.keys().isdisjoint(("enum", "const", "format")):
            return [self._fill(items, about, depth + 1) for _ in range(min(max(least, int(depth < 3)), most))]
        texts = self._ranked(about)[: max(least, min(_MAX_ITEMS, most))]
        return [self._limited(text, resolved) for text in [*texts, *["none"] * (least - len(texts))]]

    def _limited(self, text: str, schema: _Schema) -> str:
        """A text within the limits of its length."""
        least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
        self._spend(max(len(text), least) // _PIECE_CHARACTERS)
        return text[: None if most is None else int(most)].ljust(least, ".")

    def _ranked(self, about: str) -> list[str]:
        """The passages, those first that fit a field best."""
        scores = relevance(self.texts, terms(about.replace("_", " ").replace("-", " ")))
        return [self.texts[place] for place in sorted(range(len(scores)), key=lambda place: -scores[place])]

    def _resolved(self, schema: _Schema, depth: int) -> _Schema:
        """The schema with its references followed and `allOf` merged in."""
        if depth > _MAX_DEPTH:
            raise _unfit("the schema is nested too deep for the offline model")
        while "$ref" in schema:
            aim = target(self.schema, schema["$ref"])
            self._spend(1 + len(schema))
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            schema = {**(aim if isinstance(aim, dict) else {}), **rest}
        for part in (each for each in schema.get("allOf", ()) if isinstance(each, Mapping)):
            first = self._resolved(part, depth + 1)
            both = {**first, **{key: value for key, value in schema.items() if key != "allOf"}}
            if "properties" in first:
                both["properties"] = {**first["properties"], **schema.get("properties", {})}
            if "required" in first:
                both["required"] = [*first["required"], *schema.get("required", ())]
            schema = both
            self._spend(1 + len(schema) + len(schema.get("properties", ())))
        return schema


def nearest(values: Sequence[Any], text: str) -> Any:
    """The value that shares most words with a text, else the first."""
    words = set(terms(text))
    return max(values, key=lambda value: len(words.intersection(terms(str(value)))), default=None)


def _unfit(message: str) -> InvalidSchema:
    remedy = "ask for fewer, shorter or flatter values"
    return InvalidSchema(f"response_format: {message}", remedy=remedy, field="response_format")


def _type_of(schema: _Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return next((name for name in kind if name != "null"), "null")
    return kind or ("object" if "properties" in schema else "string")


def _number(schema: _Schema, text: str, kind: str) -> float | int:
    """The first number of a text, brought within the limits. Raises InvalidSchema where none fits."""
    found = NUMBER.search(text)
    step = Fraction(str(schema.get("multipleOf", 0)))
    if kind == "integer":
        step = Fraction(step.numerator) if step else Fraction(1)
    least, most = Fraction(schema.get("minimum", -_MAX_NUMBER)), Fraction(schema.get("maximum", _MAX_NUMBER))
    margin = step or min(Fraction(1, 10**6), (most - least) / 3)
    above, below = schema.get("exclusiveMinimum", False), schema.get("exclusiveMaximum", False)
    if above is not False:
        least = least + margin if above is True else max(least, Fraction(above) + margin)
    if below is not False:
        most = most - margin if below is True else min(most, Fraction(below) - margin)
    least, most = max(least, Fraction(-_MAX_NUMBER)), min(most, Fraction(_MAX_NUMBER))
    value = min(max(Fraction(found[0]) if found else Fraction(0), least), most)
    if step:
        value = math.ceil(value / step) * step
        value = value if value <= most else math.floor(most / step) * step
    if not least <= value <= most:
        raise _unfit(f"no number from -{_MAX_NUMBER} to {_MAX_NUMBER} fits the limits that the schema sets")
    return int(value) if kind == "integer" else float(value)


# Shortening

_HEADER = re.compile(r"([A-Z][A-Z_]{3,}):[ \t]*(.*)$")
_SENTENCE = re.compile(r"(?<=[.!?])(?=\s+[\"'`(\[*]*[A-Z0-9])")
# Times, ids and scores that a context must not carry on.
_LEAK = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\b1[5-9]\d{8}(?:\d{3})?\b"
    r"|\b[0-9A-HJKMNP-TV-Z]{26}\b|\b[0-9a-f]{8}-[0-9a-f]{4}-|\b(?=[0-9a-f]*\d)[0-9a-f]{12,}\b"
    r"|\b(?:created|updated|accessed|expires)_at\b|\btimestamp\s*[:=]"
    r"|\b(?:score|relevance|similarity|distance|confidence)\s*[:=]|\b\w+_(?:id|at)\s*[:=]",
    re.I,
)
_KEPT_WHOLE = frozenset({"METADATA", "CONSTRAINTS", "KNOWN_FAILURES", "OPEN_QUESTIONS"})
_OPTIONAL = frozenset({"RELEVANT_MEMORIES", "CONVERSATION_CONTEXT"})
_HEADER_TOKENS = 16  # of the sections that are not needed


class _Unit(NamedTuple):
    """An entry of a section, or one of its sentences, with the white space before it."""

    section: str
    entry: int
    text: str
    needed: bool


def shorten(text: str, max_tokens: int, count_tokens: Callable[[str], int]) -> str:
    """Shorten a context to a number of tokens by leaving out, as far as its needed parts allow.

    METADATA, constraints, failures and questions stay whole, and the task keeps its first sentence. What
    else fits is kept by how much it has to do with the task, in the order of the original; of memories and
    conversation only what says no time, id or score.
    """
    units = list(_units_of(text))
    texts = [unit.text for unit in units]
    task = terms(" ".join(unit.text for unit in units if unit.section == "DOMAIN_CONTEXT"))
    scores = relevance(texts, task) if task else centrality(texts)
    kept = {place for place, unit in enumerate(units) if unit.needed}
    left = max_tokens - count_tokens(_written(units, kept)) - _HEADER_TOKENS
    for place in sorted(set(range(len(units))) - kept, key=lambda place: (-scores[place], place)):
        cost = count_tokens(texts[place]) + 1
        if cost <= left:
            kept.add(place)
            left -= cost
    return _written(units, kept)


def _units_of(text: str) -> Iterator[_Unit]:
    seen: set[str] = set()
    for number, (section, entry) in enumerate(_entries_of(text)):
        if section in _OPTIONAL and _LEAK.search(entry):
            continue
        whole = section in _KEPT_WHOLE or (number == 0 and not section)
        for sentence in [entry] if whole else _SENTENCE.split(entry):
            yield _Unit(section, number, sentence, whole or not (section in _OPTIONAL or section in seen))
            seen.add(section)


def _entries_of(text: str) -> Iterator[tuple[str, str]]:
    """The entries of each section, with their indented lines."""
    section, held = "", list[str]()
    for line in text.splitlines():
        header = _HEADER.match(line)
        if held and (header or not line.startswith((" ", "\t"))):
            yield section, "\n".join(held)
            held.clear()
        if header:
            section = header[1]
        if kept := header[2] if header else line.rstrip() and line:
            held.append(kept)
    if held:
        yield section, "\n".join(held)


def _written(units: Sequence[_Unit], kept: set[int]) -> str:
    """The kept units as a text again."""
    lines: list[str] = []
    section, entry = "", -1
    for unit in (units[place] for place in sorted(kept)):
        lines += [f"\n{unit.section}:"] if unit.section != section else []
        if unit.entry == entry:
            lines.append(unit.text)
        else:  # the end of an entry that lost its beginning is an entry
            mark = "- " if unit.text[:1].isspace() and unit.section else ""
            lines.append(f"\n{mark}{unit.text.lstrip() if mark else unit.text}")
        section, entry = unit.section, unit.entry
    return "".join(lines).removeprefix("\n")
