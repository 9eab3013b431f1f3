"""The text work of the built-in model: it finds lines that fit, and fills JSON schemas."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from heapq import nlargest
from typing import Any, NamedTuple
from zlib import crc32

from meshwright.core.schema_checks import InvalidSchema, target

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_A-Za-z]+")
_INFLECTION = re.compile(r"(?<=...)(?:ations?|ings?|ions?|ments?|ies|ied|ed|es|s|ly|e|y)$")
_STOP_WORDS = frozenset(
    """a about after again all also am an and any are as at be been before being below between both but by can
    could describe did do does doing done each either every explain few find first for from get give given had
    has have hello her here hi his how if in into is it its know last latest let like list look make many me
    most much must my no nor not of off on once one only or other our out over please point points question
    recently said same say see sentence sentences she should show since so some still such summarise summarize
    tell than thanks that the their them then there these they thing this those three through to too two under
    until up us use used using very via want was way we were what when where whether which while who whose why
    will with within without would yet you your answer brief compare happen happens mean means research review
    """.split()  # noqa: SIM905 - a list would be 150 lines
)
_DIMENSIONS, _MAX_DIMENSIONS = 256, 4096
_NUMBER = re.compile(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,15})?\b")


def split_words(text: str) -> list[str]:
    """The words of a text as they are written, each once, without stop words."""
    words = (word for word in _WORD.findall(text) if word.isdigit() or len(word) > 1)
    return list({word.lower(): word for word in words if word.lower() not in _STOP_WORDS}.values())


def terms(text: str) -> set[str]:
    """The stems of a text's words, without stop words."""
    return {_INFLECTION.sub("", word.lower()) for word in split_words(text)}


def word_vector(text: str, size: object = None) -> tuple[float, ...]:
    """A text as a vector of length 1, by its words alone: texts with words in common are near one another."""
    vector = [0.0] * (size if isinstance(size, int) and 0 < size <= _MAX_DIMENSIONS else _DIMENSIONS)
    for term in terms(text) or {text}:
        vector[crc32(term.encode(errors="replace")) % len(vector)] += 1
    length = math.hypot(*vector)
    return tuple(value / length for value in vector)


def relevance(texts: Iterable[Collection[str]], query_terms: Collection[str]) -> list[float]:
    """How well texts, as their terms, fit the terms of a query, or one another without a query."""
    term_sets = [set(text) for text in texts]
    times = Counter(term for text in term_sets for term in text)
    if not query_terms:
        return [sum(times[term] for term in text) / (len(text) + 4) for text in term_sets]
    return [
        sum(math.log(1 + len(term_sets) / times[term]) for term in text.intersection(query_terms))
        * len(text.intersection(query_terms))
        / (6 + len(text)) ** 0.5
        for text in term_sets
    ]


def _nearest(values: Sequence[Any], text: str) -> Any:
    """The value that shares most words with a text, else the first."""
    words = terms(text)
    return max(values, key=lambda value: len(words.intersection(terms(str(value)))), default=None)


def quote(text: str, max_characters: int = 320) -> str:
    """A text on one line, cut after a word where it is too long."""
    line = " ".join(text.split())
    return line if len(line) <= max_characters else f"{line[:max_characters].rsplit(' ', 1)[0]} …"


# Passages

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'`(\[*]*[A-Z0-9])")
_BEGINS = re.compile(r"[ \t]*(?:#{1,6}\s|[-*+•]\s|\d{1,3}[.)]\s|>|\||```|@|//|<|\{|\}|\"\"\")")
_MARKS = re.compile(r"^[\s#>*+•│├└─-]+|^\d{1,3}[.)]\s+|^\W{0,9}\"\"\"|\"\"\"$")
_MAX_DEPTH = 32  # of a tool's result, and of a schema
_PROSE_FILES = ("", "md", "markdown", "txt", "rst", "adoc")
_SOURCE_KEYS = ("file", "path", "url", "source", "title", "name")
_TEXT_KEYS = ("text", "content", "body", "snippet", "summary", "message", "answer", "output", "description")


class Passage(NamedTuple):
    """A sentence of material, or a line of code, and where its paragraph begins."""

    text: str
    source: str = ""
    line: int | None = None

    def cited(self) -> str:
        """Its text on one line, with where it stands."""
        place = f"{self.source}:{self.line}" if self.source and self.line else self.source
        return f"{quote(self.text)} ({place})" if place else quote(self.text)


def cut_passages(text: str, source: str = "", first_line: int | None = None) -> Iterator[Passage]:
    """Cut a text into the sentences of its paragraphs, without headings and examples; code stays lines."""
    name = source.rpartition("/")[2]
    is_prose = (name.rpartition(".")[2] if "." in name else "") in _PROSE_FILES
    paragraph, begins, is_fenced = list[str](), 0, False
    for number, line in enumerate([*text.splitlines(), ""], first_line or 0):
        bare = _MARKS.sub("", line.strip()).strip()
        if paragraph and (not bare or not is_prose or _BEGINS.match(line)):
            for sentence in _SENTENCE_END.split(" ".join(paragraph)):
                yield Passage(sentence, source, begins if first_line is not None else None)
            paragraph.clear()
        is_fenced ^= line.startswith("```")
        if bare and not (is_prose and (is_fenced or line.startswith(("#", "```")))):
            begins = begins if paragraph else number
            paragraph.append(bare)


def passages_in(value: Any, source: str = "", line: int | None = None, depth: int = 0) -> Iterator[Passage]:
    """Cut a tool's result, JSON data or text, into passages, each with the place that its record names."""
    if isinstance(value, str):
        yield from cut_passages(value, source, line)
    elif isinstance(value, (list, dict)) and depth == _MAX_DEPTH:
        yield Passage("...", source, line)
    elif isinstance(value, list):
        for part in value:
            yield from passages_in(part, source, line, depth + 1)
    elif isinstance(value, dict):
        names = (value[key] for key in _SOURCE_KEYS if isinstance(value.get(key), str) and value[key])
        lines = (value[key] for key in ("line", "start_line") if isinstance(value.get(key), int))
        source, line = next(names, source), next(lines, line)
        texts = [value[key] for key in _TEXT_KEYS if isinstance(value.get(key), str)]
        parts = [*texts, *(part for part in value.values() if isinstance(part, (dict, list)))]
        for part in parts:
            yield from passages_in(part, source, line, depth + 1)
        if value and not parts:
            yield Passage("  ".join(str(part) for part in value.values() if part not in (None, "")))
    elif value is not None:
        yield Passage(str(value))


# Filling a schema

MAX_STEPS = 4_000
"""Parts of a schema and pieces of the value, all together, that one fill may take."""
_PIECE_CHARACTERS = 64  # of text that are one step
_MAX_TEXTS = 50  # that fields are filled from
_OPTIONAL_DEPTH = 6  # below it only what is required
_MAX_NUMBER = 10**15
_FORMATS = {
    "date-time": "1970-01-01T00:00:00Z",
    "date": "1970-01-01",
    "time": "00:00:00Z",
    "email": "nobody@example.org",
    **dict.fromkeys(("uri", "url"), "https://example.org/"),
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_Schema = Mapping[str, Any]


class SchemaFiller:
    """Fills one schema that `check_schema` has accepted, in at most MAX_STEPS steps.

    Each text is the passage that fits the question best, in a list the one after the other. Knows types,
    enum, const, references within the schema, anyOf, oneOf, allOf, formats and limits of length and size;
    not `pattern`.
    """

    def __init__(self, schema: _Schema, texts: Sequence[str], question: str) -> None:
        self.question = quote(question)
        scores = relevance(map(terms, texts), terms(self.question) or {"-"})
        best = nlargest(_MAX_TEXTS, range(len(texts)), key=lambda place: (scores[place], -place))
        self.texts = [quote(texts[place]) for place in best] or [self.question]
        self.steps = 0
        self._schema = schema

    def value(self) -> Any:
        """The value for the whole schema. Raises InvalidSchema where it is too large."""
        return self._fill(self._schema, 0)

    def _fill(self, schema: _Schema | bool, depth: int, nth: int = 0) -> Any:
        """A value for a part of the schema, the `nth` item of a list."""
        self._spend(1)
        if isinstance(schema, bool):
            return None
        schema = self._resolved(schema, depth)
        for name in ("const", "default", "enum"):
            if name in schema and (name != "default" or depth > 0):
                self._spend(1 + len(json.dumps(schema[name])) // _PIECE_CHARACTERS)
                return _nearest(schema["enum"], self.question) if name == "enum" else schema[name]
        if choices := schema.get("anyOf") or schema.get("oneOf"):
            self._spend(len(choices))
            nulls = [
                choice for choice in choices if isinstance(choice, dict) and choice.get("type") == "null"
            ]
            others = [choice for choice in choices if choice not in nulls]
            first = ((nulls or others) if depth > _OPTIONAL_DEPTH or not others else others)[0]
            return self._fill(first, depth + 1)
        match _schema_type(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer" | "number" as kind:
                return _number(schema, self.texts[0], whole=kind == "integer")
            case "boolean":
                return False
            case "null":
                return None
        least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
        text = _FORMATS.get(schema.get("format", "")) or self.texts[nth % len(self.texts)]
        self._spend(max(len(text), least) // _PIECE_CHARACTERS)
        return text[: None if most is None else int(most)].ljust(least, ".")

    def _object(self, schema: _Schema, depth: int) -> dict[str, Any]:
        """An object with all its properties; deep down or in a large value only with those required."""
        properties = schema.get("properties", {})
        required = dict.fromkeys(schema.get("required", ()))
        self._spend(len(properties) // _PIECE_CHARACTERS)
        fields = {}
        for name in {**required, **properties}:
            if name in required or (depth < _OPTIONAL_DEPTH and self.steps < MAX_STEPS // 2):
                self._spend(len(name) // _PIECE_CHARACTERS)
                part = properties.get(name, {"type": "string"})
                fields[name] = self._fill(part, depth + 1)
        return fields

    def _array(self, schema: _Schema, depth: int) -> list[Any]:
        """A list with as few items as there may be, or one."""
        least = int(schema.get("minItems", 0))
        most = int(schema.get("maxItems", max(least, 1)))
        items = schema.get("items", {"type": "string"})
        items = (items[0] if items else {}) if isinstance(items, list) else items
        self._spend(least)
        return [self._fill(items, depth + 1, nth) for nth in range(min(max(least, int(depth < 3)), most))]

    def _resolved(self, schema: _Schema, depth: int) -> dict[str, Any]:
        """The schema with its reference and its `allOf` merged in."""
        if depth > _MAX_DEPTH:
            raise _unfit("the schema is nested too deep for the offline model")
        whole: dict[str, Any] = {}
        referred = [target(self._schema, schema["$ref"])] if "$ref" in schema else []
        for part in [*referred, *schema.get("allOf", ()), None]:
            if isinstance(part, Mapping):
                part = self._resolved(part, depth + 1)
            elif part is None:
                part = {name: value for name, value in schema.items() if name not in ("$ref", "allOf")}
            else:
                continue
            properties = {**whole.get("properties", {}), **part.get("properties", {})}
            required = [*whole.get("required", ()), *part.get("required", ())]
            self._spend(1 + len(part) + len(properties))
            whole |= part
            whole |= {"properties": properties} if properties else {}
            whole |= {"required": required} if required else {}
        return whole

    def _spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise _unfit("the value that the schema asks for is too large for the offline model")


def _unfit(message: str) -> InvalidSchema:
    remedy = "ask for fewer, shorter or flatter values"
    return InvalidSchema(f"response_format: {message}", remedy=remedy, field="response_format")


def _schema_type(schema: _Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return next((name for name in kind if name != "null"), "null")
    return kind or ("object" if "properties" in schema else "string")


def _number(schema: _Schema, text: str, *, whole: bool) -> float | int:
    """The first number of a text, brought within the limits. Raises InvalidSchema where none fits."""

    def limit(name: str, usual: int) -> Fraction:
        value = schema.get(name, usual)
        return Fraction(usual if isinstance(value, bool) else value)

    step = Fraction(str(schema.get("multipleOf", 0)))
    step = Fraction(step.numerator or 1) if whole else step
    margin = step or Fraction(1, 10**6)
    least = max(limit("minimum", -_MAX_NUMBER), limit("exclusiveMinimum", -2 * _MAX_NUMBER) + margin)
    most = min(limit("maximum", _MAX_NUMBER), limit("exclusiveMaximum", 2 * _MAX_NUMBER) - margin)
    number = _NUMBER.search(text)
    value = min(max(Fraction(number[0]) if number else Fraction(0), least), most)
    if step:
        value = math.ceil(value / step) * step
        value = value if value <= most else math.floor(most / step) * step
    if not least <= value <= most or abs(value) > _MAX_NUMBER:
        raise _unfit(f"no number from -{_MAX_NUMBER} to {_MAX_NUMBER} fits the limits that the schema sets")
    return int(value) if whole else float(value)
