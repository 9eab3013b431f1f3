"""A JSON value that fits a schema, filled from the material as far as it goes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from meshwright.models.offline.kit import NUMBER, nearest
from meshwright.models.offline.passages import quote
from meshwright.models.offline.terms import relevance, terms

MAX_DEPTH = 12
MAX_ITEMS = 3
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
    """Fills one schema. Each text is the passage that fits its field's name and description best.

    Knows types, enum, const, references within the schema, anyOf, oneOf, allOf, formats and limits of
    length and size; not `pattern`, which no quotation can be bent to.
    """

    def __init__(self, schema: Mapping[str, Any], texts: Sequence[str], question: str) -> None:
        self.schema = schema
        self.texts = texts or [question]
        self.terms = [terms(text) for text in self.texts]
        self.question = question

    def value(self) -> Any:
        """The value for the whole schema."""
        return self.fill(self.schema, self.question, 0)

    def fill(self, schema: Mapping[str, Any] | bool, about: str, depth: int) -> Any:
        """A value for a part of the schema; `about` says what it is for."""
        if isinstance(schema, bool) or depth > MAX_DEPTH:
            return None
        schema = self.resolved(schema)
        about = f"{about} {schema.get('description', '')}"
        for name in ("const", "default"):
            if name in schema and (name == "const" or depth > 0):
                return schema[name]
        if "enum" in schema:
            return nearest(schema["enum"], " ".join([self.question, self.best(about)]))
        for name in ("anyOf", "oneOf"):
            if schema.get(name):
                return self.fill(self.preferred(schema[name], depth), about, depth + 1)
        return self.by_type(type_of(schema), schema, about, depth)

    def by_type(self, kind: str, schema: Mapping[str, Any], about: str, depth: int) -> Any:
        """A value of a type."""
        if kind == "object":
            return self.object(schema, about, depth)
        if kind == "array":
            return self.array(schema, about, depth)
        if kind in ("integer", "number"):
            return self.number(schema, about, kind)
        if kind == "string":
            return self.text(schema, about)
        return False if kind == "boolean" else None

    def object(self, schema: Mapping[str, Any], about: str, depth: int) -> dict[str, Any]:
        """An object with all its properties; deep down only with those that are required."""
        properties = schema.get("properties", {})
        required = schema.get("required", ())
        names = [name for name in properties if name in required or depth < MAX_DEPTH // 2]
        return {name: self.fill(properties[name], name, depth + 1) for name in names} | {
            name: self.fill({"type": "string"}, name, depth + 1)
            for name in required
            if name not in properties
        }

    def array(self, schema: Mapping[str, Any], about: str, depth: int) -> list[Any]:
        """A list: of texts the best passages, of anything else as few as there may be."""
        least, most = schema.get("minItems", 0), schema.get("maxItems", MAX_ITEMS)
        items = schema.get("items", {"type": "string"})
        plain = (
            isinstance(items, Mapping) and type_of(self.resolved(items)) == "string" and "enum" not in items
        )
        if not plain:
            return [self.fill(items, about, depth + 1) for _ in range(min(max(least, int(depth < 3)), most))]
        texts = [
            limited(quote(text), items) for text in self.ranked(about)[: max(least, min(MAX_ITEMS, most))]
        ]
        return texts + [limited("none", items)] * (least - len(texts))

    def number(self, schema: Mapping[str, Any], about: str, kind: str) -> float | int:
        """The first number near what it is about, brought within the limits."""
        match = NUMBER.search(self.best(about))
        step = 1 if kind == "integer" else 1e-6
        least = max(schema.get("minimum", -1e15), schema.get("exclusiveMinimum", -1e15) + step)
        most = min(schema.get("maximum", 1e15), schema.get("exclusiveMaximum", 1e15) - step)
        value = min(max(float(match[0]) if match else 0.0, least), most)
        if multiple := schema.get("multipleOf"):
            value = -(-least // multiple) * multiple if value % multiple else value
        return int(value) if kind == "integer" else value

    def text(self, schema: Mapping[str, Any], about: str) -> str:
        """The passage that fits best, within the limits; for a format a fixed value of it."""
        known = FORMATS.get(schema.get("format", ""))
        return known or limited(quote(self.best(about)), schema)

    def best(self, about: str) -> str:
        """The passage that fits a field best."""
        return self.ranked(about)[0]

    def ranked(self, about: str) -> list[str]:
        """The passages, those first that fit a field best; the question decides among the others."""
        words = re.sub(r"[_-]", " ", about)
        scores = relevance(self.terms, terms(words))
        general = relevance(self.terms, terms(self.question))
        order = sorted(range(len(self.texts)), key=lambda place: (-scores[place], -general[place]))
        return [self.texts[place] for place in order]

    def preferred(self, choices: Sequence[Mapping[str, Any]], depth: int) -> Mapping[str, Any]:
        """Of several schemas the first that is not null; deep down null, if it may be."""
        nulls = [each for each in choices if each.get("type") == "null"]
        others = [each for each in choices if each.get("type") != "null"]
        return (nulls or others)[0] if depth > MAX_DEPTH // 2 or not others else others[0]

    def resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The schema with its reference followed and `allOf` merged in."""
        for _ in range(MAX_DEPTH):
            if "$ref" not in schema:
                break
            schema = {**self.target(schema["$ref"]), **{k: v for k, v in schema.items() if k != "$ref"}}
        for each in schema.get("allOf", ()):
            schema = merged(self.resolved(each), {k: v for k, v in schema.items() if k != "allOf"})
        return schema

    def target(self, reference: str) -> Mapping[str, Any]:
        """What a reference within the schema (`#/$defs/Name`) points to."""
        node: Any = self.schema
        for step in reference.removeprefix("#").strip("/").split("/"):
            node = node.get(step.replace("~1", "/").replace("~0", "~"), {}) if step else node
        return node


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two schemas of an object as one."""
    both = {**first, **second}
    if "properties" in first and "properties" in second:
        both["properties"] = {**first["properties"], **second["properties"]}
    if "required" in first and "required" in second:
        both["required"] = [*first["required"], *second["required"]]
    return both


def type_of(schema: Mapping[str, Any]) -> str:
    """The type that a schema means."""
    kind = schema.get("type")
    if isinstance(kind, list):
        return next((each for each in kind if each != "null"), "null")
    return kind or ("object" if "properties" in schema else "string")


def limited(text: str, schema: Mapping[str, Any]) -> str:
    """A text within the limits of its length."""
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    return text[:most].ljust(least, ".")
