"""What the built-in model reads in a request: words that tell, passages to quote, results of tools."""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Any, NamedTuple

from meshwright.models.port import ChatMessage

_MAX_PASSAGES = 2_000
_MAX_QUOTE_CHARACTERS = 320
MAX_ASKED_CHARACTERS = 2_000  # of a question that decide what is done about it
_MIN_MATERIAL_CHARACTERS = 160  # of a text that comes with a question, to be worked on
_WORD = re.compile(r"\w+(?:[-_./]\w+)*")
_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_A-Za-z]+")
_INFLECTION = re.compile(r"(?<=...)(?:ations?|ings?|ions?|ments?|ies|ied|ed|es|s|ly|e|y)$")
_STOP_WORDS = frozenset(
    """a about after again all also am an and any are as at be been before being below between both but by
    can could describe did do does doing done each either ever every explain few find first for from
    get give given go had has have having he her here his how i if in into is it its just know last
    latest let like list look make many may me might more most much must my never no nor not now of
    off often on once one only or other our out over own please point points question really recent
    recently same say second see sentence sentences shall she short should show since so some
    something still such summarise summarize summary tell than that the their them then there these
    they thing things this those three through thus to too two under until up us use used very via
    want was way we were what whatever when where whether which while who whom whose why will with
    within without would yet you your hello hi hey thanks thank ok okay answer brief compare happen
    happens happened mean means kind research review""".split()  # noqa: SIM905 - a list would be 150 lines
)
_PLACE = re.compile(r"https?://\S+|[\w./@:-]+")
_URL = re.compile(r"https?://[^\s<>\"'`)\]]+[^\s<>\"'`)\].,;:!?]")
_BLANK_LINES = re.compile(r"\n[ \t]+(?=\n)")
_FILE = re.compile(r"[\w.-]*(?:\w\.[A-Za-z]\w{0,4}|README|LICENSE|Makefile|Dockerfile)")
_SECTION = re.compile(r"([A-Z][A-Z_]{3,}):[ \t]*$")
_NOT_KNOWN = frozenset({"", "METADATA", "DOMAIN_CONTEXT", "OPEN_QUESTIONS"})
_SPEAKER = re.compile(r"^(?:user|assistant|system|tool|[a-z]+-agent): ")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'`(\[*]*[A-Z0-9])")
_BEGINS = re.compile(r"[ \t]*(?:#{1,6}\s|[-*+•]\s|\d{1,3}[.)]\s|>|\||```|@|//|<|\{|\}|\"\"\")")
_MARKS = re.compile(r"^[\s#>*+•│├└─-]+|^\d{1,3}[.)]\s+|^\W{0,9}\"\"\"|\"\"\"$")
_CODE = re.compile(
    r"[({\[,;=\\]$|^(?:def|class|import|from|return|async|await|if|for|while|raise|assert|elif|else|try|with)\b"
    r"|\s[=!+-]?=\s|->|::|\)\s?:$"
)
_PROSE_FILES = ("", "md", "markdown", "txt", "rst", "adoc")
_SOURCE_KEYS = ("file", "path", "url", "source", "title", "name")
_TEXT_KEYS = ("text", "content", "body", "snippet", "summary", "message", "answer", "output", "description")


class Passage(NamedTuple):
    """A piece of material: its text, where it stands, and how much it counts."""

    text: str
    source: str = ""
    line: int | None = None
    weight: float = 1.0

    def cited(self) -> str:
        """Its text on one line, with where it stands."""
        place = f"{self.source}:{self.line}" if self.source and self.line else self.source
        return f"{quote(self.text)} ({place})" if place else quote(self.text)


class Result(NamedTuple):
    """A tool call that was made, and what came of it."""

    name: str
    arguments: dict[str, Any]
    value: Any
    error: str = ""


class Talk:
    """A request, read: the question, the results of its tools, and what an answer may quote."""

    def __init__(self, messages: Sequence[ChatMessage]) -> None:
        asked = [
            place
            for place, message in enumerate(messages)
            if message.role == "user" and not (place and messages[place - 1].role == "tool")
        ]
        place = asked[-1] if asked else len(messages)
        question = messages[place].content.strip() if asked else ""
        self.question, self.given = _split(question)
        self.results = list(_results(messages[place + 1 :]))
        said = [message.content for message in messages[:place] if message.role in ("user", "assistant")]
        prompt = "\n".join(message.content for message in messages if message.role == "system")
        known = (passage for text in [_known(prompt), *said] for passage in passages_of(text))
        self.prompt = prompt[:MAX_ASKED_CHARACTERS]
        self.background = [
            passage
            for passage in islice(known, _MAX_PASSAGES)
            if not passage.text.endswith("?") and passage.text != self.question
        ]
        found = (passage for each in self.results if not each.error for passage in _passages_in(each.value))
        self.found = [*self.given, *islice(found, _MAX_PASSAGES)]
        self.asked = self.question[:MAX_ASKED_CHARACTERS]
        self.subject = _PLACE.sub(lambda word: " " if places_in(word[0]) else word[0], self.asked)
        self.wanted = frozenset(terms(self.subject))

    def is_known(self) -> bool:
        """Whether memories, earlier messages or the request itself say it already."""
        return bool(self.given) or any(self.wanted <= set(terms(each.text)) for each in self.background)


def terms(text: str) -> list[str]:
    """The stems of a text's words, stop words left out; a compound gives itself and its parts."""
    found: list[str] = []
    for word in _WORD.findall(text):
        parts = _PART.findall(word)
        found += [word.lower()] if len(parts) > 1 else []
        found += [_INFLECTION.sub("", part.lower()) for part in parts if _is_telling(part)]
    return found


def telling_words(text: str) -> list[str]:
    """The words of a text as they are written, without stop words and repeats."""
    return list({word.lower(): word for word in _WORD.findall(text) if _is_telling(word)}.values())


def relevance(texts: Iterable[str], wanted: Iterable[str]) -> list[float]:
    """How well each text fits the wanted terms, rare ones more than common ones; 0 where it has none."""
    asked, counts = set(wanted), [Counter(terms(text)) for text in texts]
    frequency = Counter(term for count in counts for term in asked & count.keys())
    weights = {term: math.log(1 + len(counts) / times) for term, times in frequency.items()}
    return [
        sum(weights[term] for term in asked & count.keys())
        * len(asked & count.keys())
        / (len(asked) * (6 + count.total()) ** 0.5)
        if asked
        else 0.0
        for count in counts
    ]


def centrality(texts: Iterable[str]) -> list[float]:
    """How much each text is about what all of them are about; the earlier a little more."""
    counts = [set(terms(text)) for text in texts]
    frequency = Counter(term for count in counts for term in count)
    return [
        sum(frequency[term] for term in count) / (len(count) + 4) * (1 + 1 / (1 + place / 4))
        for place, count in enumerate(counts)
    ]


def urls_in(text: str) -> list[str]:
    """The addresses of web pages in a text, each once."""
    return list(dict.fromkeys(_URL.findall(text)))


def places_in(text: str) -> list[str]:
    """The pages and files that a text names, each once: `src/app.py` of `src/app.py:12`."""
    places = urls_in(text)
    for word in _PLACE.findall(_URL.sub(" ", text)):
        path = word.replace(":", "@").partition("@")[0].rstrip(".-/")
        if not path.startswith("/") and _FILE.fullmatch(path.rpartition("/")[2]):
            places.append(path)
    return list(dict.fromkeys(places))


def passages_of(text: str, source: str = "", first_line: int | None = None) -> Iterator[Passage]:
    """Cut a text into sentences, wrapped lines joined; code and headings stay lines, and count less."""
    suffix = source.rpartition("/")[2].rpartition(".")[2] if "." in source else ""
    prose_file, fenced = suffix in _PROSE_FILES, False
    held: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines()):
        bare = _MARKS.sub("", line.strip()).strip()
        fence = line.lstrip().startswith("```")
        heading = prose_file and line.startswith(("#", "|", "<"))  # or a table, or markup
        code = fenced or heading or (not prose_file and _CODE.search(bare) is not None)
        if held and (fence or code or not bare or _BEGINS.match(line)):
            yield from _sentences(held, source, first_line)
            held = []
        if fence:
            fenced = not fenced
        elif bare and code:
            yield Passage(bare, source, None if first_line is None else first_line + number, 0.5)
        elif bare:
            held.append((number, bare))
    if held:
        yield from _sentences(held, source, first_line)


def _passages_in(value: Any, source: str = "", line: int | None = None) -> Iterator[Passage]:
    """Cut a tool's result, JSON data or text, into passages, each with the place that its record names."""
    if isinstance(value, str):
        yield from passages_of(value, source, line)
    elif isinstance(value, list):
        for part in value:
            yield from _passages_in(part, source, line)
    elif isinstance(value, dict):
        names = (value[key] for key in _SOURCE_KEYS if isinstance(value.get(key), str) and value[key])
        lines = (value[key] for key in ("line", "start_line") if isinstance(value.get(key), int))
        source, line = next(names, source), next(lines, line)
        texts = [value[key] for key in _TEXT_KEYS if isinstance(value.get(key), str)]
        parts = [*texts, *(part for part in value.values() if isinstance(part, (dict, list)))]
        for part in parts:
            yield from _passages_in(part, source, line)
        if value and not parts:
            yield Passage(record_line(value))


def record_line(record: Any) -> str:
    """A flat record as a line: its values, in their order."""
    if not isinstance(record, dict):
        return str(record)
    return "  ".join(str(value) for value in record.values() if value not in (None, ""))


def quote(text: str, max_characters: int = _MAX_QUOTE_CHARACTERS) -> str:
    """A text on one line, cut after a word where it is too long."""
    line = " ".join(text.split())
    return line if len(line) <= max_characters else f"{line[:max_characters].rsplit(' ', 1)[0]} …"


def parsed(text: str) -> Any:
    """JSON data, or the text itself where it is none or is nested too deep."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    level = [value]
    for _ in range(16):
        holders = [part for part in level if isinstance(part, (dict, list))]
        level = [inner for part in holders for inner in (part.values() if isinstance(part, dict) else part)]
    return text if level else value


def _is_telling(word: str) -> bool:
    return word.isdigit() or (len(word) > 1 and word.lower() not in _STOP_WORDS)


def _split(text: str) -> tuple[str, list[Passage]]:
    """Part what is asked from the text that it is asked about, where a request brings one."""
    for separator in ("\n\n", "\n", ": "):
        asked, _, rest = _BLANK_LINES.sub("\n\n", text).partition(separator)
        is_long = len(rest) >= _MIN_MATERIAL_CHARACTERS and (separator != ": " or "\n" not in text)
        given = [each for each in passages_of(rest) if not each.text.endswith("?")]
        if given and (is_long or (separator == "\n\n" and terms(asked))):
            return asked.strip(), given[:_MAX_PASSAGES]
    return text, []


def _known(prompt: str) -> str:
    """The sections of a context that say what is known; a line that is no entry ends one."""
    kept, section = list[str](), ""
    for line in prompt.splitlines():
        if header := _SECTION.match(line):
            section = header[1]
        elif line and not line.startswith(("- ", "* ", " ")) and section != "METADATA":
            section = ""
        elif section not in _NOT_KNOWN:
            kept.append(_SPEAKER.sub("", line.removeprefix("- ")) + "\n")
    return "\n".join(kept)


def _sentences(lines: Sequence[tuple[int, str]], source: str, first_line: int | None) -> Iterator[Passage]:
    """The sentences of a paragraph, each with the line that it starts on."""
    text = " ".join(line for _, line in lines)
    ends = list(accumulate(len(line) + 1 for _, line in lines))
    start = 0
    for end in [*_SENTENCE_END.finditer(text), None]:
        number = lines[min(bisect_right(ends, start), len(lines) - 1)][0]
        sentence = text[start : end.start() if end else None].strip()
        if sentence:
            weight = 0.7 if sentence[0].islower() or sentence.count(" ") < 2 else 1.0
            yield Passage(sentence, source, None if first_line is None else first_line + number, weight)
        start = end.end() if end else start


def _results(messages: Sequence[ChatMessage]) -> Iterator[Result]:
    """The tool calls since the question, each with what came of it."""
    calls = {call.id: call for message in messages for call in message.tool_calls}
    for message in messages:
        call = calls.get(message.tool_call_id or "") if message.role == "tool" else None
        if call is not None:
            arguments, value = parsed(call.arguments), parsed(message.content)
            fault = value.get("error") if isinstance(value, dict) and len(value) == 1 else None
            yield Result(call.name, arguments if isinstance(arguments, dict) else {}, value, str(fault or ""))
