"""A JSON value that fits a schema, filled from the material as far as it goes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from heapq import nlargest
from typing import Any

from meshwright.models.offline.kit import NUMBER, nearest
from meshwright.models.offline.passages import quote
from meshwright.models.offline.terms import relevance, terms
from meshwright.models.schema import InvalidSchema, target

MAX_STEPS = 4_000
"""Parts of a schema and pieces of the value, all together, that one fill may take."""
PIECE_CHARACTERS = 64  # of text that are one step
MAX_TEXTS = 50  # that fields are filled from
MAX_ABOUT = 300  # characters that say what a field is for
MAX_DEPTH = 32
OPTIONAL_DEPTH = 6  # below it only what is required
MAX_ITEMS = 3
MAX_NUMBER = 10**15
FORMATS = {
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


class SchemaFiller:
    """Fills one schema that `check_schema` has accepted, in at most MAX_STEPS steps.

    Each text is the passage that fits its field's name and description best. Knows types, enum, const,
    references within the schema, anyOf, oneOf, allOf, formats and limits of length and size; not `pattern`.
    """

    def __init__(self, schema: Mapping[str, Any], texts: Sequence[str], question: str) -> None:
        self.schema = schema
        self.question = quote(question)
        self.texts = self._nearest_texts(texts) or [self.question]
        self.terms = [terms(text) for text in self.texts]
        self.general = relevance(self.terms, terms(self.question))
        self.steps = 0

    def value(self) -> Any:
        """The value for the whole schema. Raises InvalidSchema where it is too large."""
        return self._fill(self.schema, self.question, 0)

    def _nearest_texts(self, texts: Sequence[str]) -> list[str]:
        """The texts nearest to the question, in their order."""
        scores = relevance([terms(text) for text in texts], terms(self.question))
        best = nlargest(MAX_TEXTS, range(len(texts)), key=lambda place: (scores[place], -place))
        return [quote(texts[place]) for place in sorted(best)]

    def _spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise _unfit(
                "the value that the schema asks for is too large for the offline model",
                "ask for fewer, shorter or flatter values",
            )

    def _spend_on(self, value: Any) -> None:
        self._spend(1 + len(json.dumps(value)) // PIECE_CHARACTERS)

    def _fill(self, schema: Mapping[str, Any] | bool, about: str, depth: int) -> Any:
        """A value for a part of the schema; `about` says what it is for."""
        self._spend(1)
        if isinstance(schema, bool):
            return None
        schema = self._resolved(schema, depth)
        about = f"{about} {schema.get('description', '')[:MAX_ABOUT]}"[:MAX_ABOUT]
        for name in ("const", "default"):
            if name in schema and (name == "const" or depth > 0):
                self._spend_on(schema[name])
                return schema[name]
        if "enum" in schema:
            self._spend_on(schema["enum"])
            return nearest(schema["enum"], " ".join([self.question, self._best(about)]))
        for name in ("anyOf", "oneOf"):
            if choices := schema.get(name):
                self._spend(len(choices))
                return self._fill(_preferred(choices, depth), about, depth + 1)
        return self._by_type(_type_of(schema), schema, about, depth)

    def _by_type(self, kind: str, schema: Mapping[str, Any], about: str, depth: int) -> Any:
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, about, depth)
        if kind in ("integer", "number"):
            return _number(schema, self._best(about), kind)
        if kind == "string":
            known = FORMATS.get(schema.get("format", ""))
            return known or self._limited(self._best(about), schema)
        return False if kind == "boolean" else None

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """An object with all its properties; deep down or in a large value only with those required."""
        properties = schema.get("properties", {})
        required = dict.fromkeys(schema.get("required", ()))
        self._spend(len(properties) // PIECE_CHARACTERS)
        made = {}
        for name in {**required, **properties}:
            if name in required or (depth < OPTIONAL_DEPTH and self.steps < MAX_STEPS // 2):
                self._spend(len(name) // PIECE_CHARACTERS)
                made[name] = self._fill(properties.get(name, {"type": "string"}), name[:MAX_ABOUT], depth + 1)
        return made

    def _array(self, schema: Mapping[str, Any], about: str, depth: int) -> list[Any]:
        """A list: of texts the best passages, of anything else as few as there may be."""
        least = int(schema.get("minItems", 0))
        most = int(schema.get("maxItems", max(least, MAX_ITEMS)))
        items = schema.get("items", {"type": "string"})
        if isinstance(items, list):
            items = items[0] if items else {}
        self._spend(least)
        resolved = self._resolved(items, depth) if isinstance(items, Mapping) else {}
        if _type_of(resolved) != "string" or not resolved.keys().isdisjoint(("enum", "const", "format")):
            return [self._fill(items, about, depth + 1) for _ in range(min(max(least, int(depth < 3)), most))]
        texts = self._ranked(about)[: max(least, min(MAX_ITEMS, most))]
        texts += ["none"] * (least - len(texts))
        return [self._limited(text, resolved) for text in texts]

    def _limited(self, text: str, schema: Mapping[str, Any]) -> str:
        """A text within the limits of its length."""
        least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
        self._spend(max(len(text), least) // PIECE_CHARACTERS)
        return text[: None if most is None else int(most)].ljust(least, ".")

    def _best(self, about: str) -> str:
        """The passage that fits a field best."""
        return self._ranked(about)[0]

    def _ranked(self, about: str) -> list[str]:
        """The passages, those first that fit a field best; the question decides among the others."""
        scores = relevance(self.terms, terms(about.replace("_", " ").replace("-", " ")))
        order = sorted(range(len(self.texts)), key=lambda place: (-scores[place], -self.general[place]))
        return [self.texts[place] for place in order]

    def _resolved(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        """The schema with its references followed and `allOf` merged in."""
        if depth > MAX_DEPTH:
            raise _unfit("the schema is nested too deep for the offline model", "ask for a flatter value")
        while "$ref" in schema:
            aim = target(self.schema, schema["$ref"])
            self._spend(1 + len(schema))
            schema = {**(aim if isinstance(aim, dict) else {}), **_without(schema, "$ref")}
        for part in schema.get("allOf", ()):
            if isinstance(part, Mapping):
                schema = _merged(self._resolved(part, depth + 1), _without(schema, "allOf"))
                self._spend(1 + len(schema) + len(schema.get("properties", ())))
        return schema


def _unfit(message: str, remedy: str) -> InvalidSchema:
    return InvalidSchema(f"response_format: {message}", remedy=remedy, field="response_format")


def _without(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != name}


def _preferred(choices: Sequence[Any], depth: int) -> Any:
    """Of several schemas the first that is not null; deep down null, if it may be."""
    nulls = [part for part in choices if _is_null(part)]
    others = [part for part in choices if not _is_null(part)]
    return (nulls or others)[0] if depth > OPTIONAL_DEPTH or not others else others[0]


def _is_null(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "null"


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two schemas of an object as one."""
    both = {**first, **second}
    if "properties" in first and "properties" in second:
        both["properties"] = {**first["properties"], **second["properties"]}
    if "required" in first and "required" in second:
        both["required"] = [*first["required"], *second["required"]]
    return both


def _type_of(schema: Mapping[str, Any]) -> str:
    """The type that a schema means."""
    kind = schema.get("type")
    if isinstance(kind, list):
        return next((name for name in kind if name != "null"), "null")
    return kind or ("object" if "properties" in schema else "string")


def _number(schema: Mapping[str, Any], text: str, kind: str) -> float | int:
    """The first number of a text, brought within the limits. Raises InvalidSchema where there is none."""
    found = NUMBER.search(text)
    step = _step(schema, kind)
    least, most = _limits(schema, step)
    value = min(max(Fraction(found[0]) if found else Fraction(0), least), most)
    if step:
        value = math.ceil(value / step) * step
        value = value if value <= most else math.floor(most / step) * step
    if not least <= value <= most:
        raise _unfit(
            "no number fits the limits that the schema sets",
            f"the offline model knows numbers from -{MAX_NUMBER} to {MAX_NUMBER}",
        )
    return int(value) if kind == "integer" else float(value)


def _step(schema: Mapping[str, Any], kind: str) -> Fraction:
    """What the number is a multiple of; 0 for any."""
    step = Fraction(str(schema.get("multipleOf", 0)))
    if kind == "integer":
        return Fraction(step.numerator) if step else Fraction(1)
    return step


def _limits(schema: Mapping[str, Any], step: Fraction) -> tuple[Fraction, Fraction]:
    """The least and the greatest number, both included."""
    least, most = Fraction(schema.get("minimum", -MAX_NUMBER)), Fraction(schema.get("maximum", MAX_NUMBER))
    above, below = schema.get("exclusiveMinimum", False), schema.get("exclusiveMaximum", False)
    low = max(least, least if isinstance(above, bool) else Fraction(above))
    high = min(most, most if isinstance(below, bool) else Fraction(below))
    margin = step or min(Fraction(1, 10**6), (high - low) / 3)
    if above is True or (not isinstance(above, bool) and Fraction(above) >= least):
        low += margin
    if below is True or (not isinstance(below, bool) and Fraction(below) <= most):
        high -= margin
    return max(low, Fraction(-MAX_NUMBER)), min(high, Fraction(MAX_NUMBER))
