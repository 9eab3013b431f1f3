"""What a request to a model holds: the question, what was done about it, and all that was said before."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from typing import Any

from meshwright.models.offline.passages import MAX_PASSAGES, Passage, passages_in, passages_of
from meshwright.models.offline.terms import terms
from meshwright.models.port import ChatMessage

SECTION = re.compile(r"^([A-Z][A-Z_]{3,}):[ \t]*$")
ENTRY = re.compile(r"^(?:[-*] |\s+\S)")
SPEAKER = re.compile(r"^(user|assistant|system|tool|[a-z]+-agent): ")
URL = re.compile(r"https?://[^\s<>\"'`)\]]+[^\s<>\"'`)\].,;:!?]")
PLACE = re.compile(r"[\w./@:-]+")
SUFFIX = re.compile(r"[A-Za-z]\w{0,4}")
FILES = frozenset({"README", "LICENSE", "Makefile", "Dockerfile"})
ORDER = re.compile(r"^\W*(?:please\s+|(?:can|could) you\s+)*(?:read|write|search|check)\b", re.I)
BLANK_LINE = re.compile(r"\n[ \t]*\n")
# Sections that say what the task is, not what is known.
TASK_SECTIONS = frozenset({"METADATA", "DOMAIN_CONTEXT", "OPEN_QUESTIONS"})
MAX_ASKED_CHARACTERS = 2_000  # of a question that decide what is done about it
MAX_DEPTH = 16  # of JSON that is read as such
MIN_MATERIAL_CHARACTERS = 160  # of a request: a longer one may bring the text that it is about


@dataclass(frozen=True, slots=True)
class Result:
    """A tool call that was made, and what came of it; `error` is what went wrong, if something did."""

    name: str
    arguments: dict[str, Any]
    value: Any
    error: str = ""


@dataclass(frozen=True)
class Talk:
    """A request, read: `question` is what is asked now, `results` what its tool calls gave, `background`
    what memories, constraints and earlier messages say, `instructions` the prompt itself."""

    question: str
    results: tuple[Result, ...] = ()
    background: tuple[Passage, ...] = ()
    instructions: str = ""
    given: tuple[Passage, ...] = field(default=())
    """Text that came with the question, for it to be worked on."""

    @cached_property
    def wanted(self) -> frozenset[str]:
        """The terms of the question, without those of the pages and files that it names."""
        return frozenset(terms(self.subject))

    @cached_property
    def subject(self) -> str:
        """The question without the pages and files that it names, and without an order to read them."""
        words = PLACE.sub(lambda word: " " if path_in(word[0]) else word[0], URL.sub(" ", self.asked))
        return ORDER.sub("", words)

    @property
    def asked(self) -> str:
        """The beginning of the question: what decides which tools are called."""
        return self.question[:MAX_ASKED_CHARACTERS]

    @property
    def answers(self) -> list[Result]:
        """The results of the tool calls that worked."""
        return [result for result in self.results if not result.error]

    @cached_property
    def found(self) -> tuple[Passage, ...]:
        """What came with the question, and what the tools found."""
        passages = (passage for result in self.answers for passage in passages_in(result.value))
        return (*self.given, *islice(passages, MAX_PASSAGES))

    @cached_property
    def material(self) -> tuple[Passage, ...]:
        """Everything that an answer may quote."""
        return (*self.background, *self.found)


def read_talk(messages: Sequence[ChatMessage]) -> Talk:
    """Read the messages of a request."""
    place = place_of_question(messages)
    question, given = split_question(messages[place].content if place >= 0 else "")
    sections = list(sections_of("\n".join(each.content for each in messages if each.role == "system")))
    known = (passage for name, body in sections if name for passage in known_in(name, body))
    said = (passage for each in messages[: max(place, 0)] for passage in said_in(each))
    background = (each for each in chain(known, said) if each.text.strip() != question.strip())
    return Talk(
        question=question,
        results=tuple(results_of(messages[place + 1 :])),
        background=tuple(islice(background, MAX_PASSAGES)),
        instructions="\n".join(body for name, body in sections if not name).strip(),
        given=tuple(given[:MAX_PASSAGES]),
    )


def place_of_question(messages: Sequence[ChatMessage]) -> int:
    """The place of the last message of a user, -1 if there is none.

    One that follows a tool's result only urges ("answer now"): the question stands before the calls.
    """
    places = [
        place
        for place, message in enumerate(messages)
        if message.role == "user" and not (place and messages[place - 1].role == "tool")
    ]
    return places[-1] if places else -1


def split_question(text: str) -> tuple[str, list[Passage]]:
    """Part what is asked from the text that it is asked about, where a request brings one.

    That is what stands after a blank line, unless it only asks on; or any long text after the first line.
    """
    asked, *after = BLANK_LINE.split(text.strip(), maxsplit=1)
    if after and terms(asked) and (given := [each for each in passages_of(after[0]) if tells(each)]):
        return asked.strip(), given
    first, separator, rest = text.strip().partition("\n")
    if not separator and len(text) > MIN_MATERIAL_CHARACTERS:
        first, separator, rest = text.partition(": ")
    if not separator or len(rest) < MIN_MATERIAL_CHARACTERS:
        return text.strip(), []
    return first.strip(), list(passages_of(rest))


def tells(passage: Passage) -> bool:
    """Whether a passage says something, and does not ask."""
    return not passage.text.endswith("?")


def sections_of(text: str) -> Iterator[tuple[str, str]]:
    """The named sections of a context, and the text between them under no name."""
    name = ""
    held: list[str] = []
    for line in text.splitlines():
        header = SECTION.match(line)
        ends = bool(name) and name != "METADATA" and not ENTRY.match(line)
        if header or ends:
            yield name, "\n".join(held)
            name = header[1] if header else ""
            held.clear()
        if not header:
            held.append(line)
    yield name, "\n".join(held)


def known_in(name: str, body: str) -> Iterator[Passage]:
    """The passages of a section that says what is known."""
    if name in TASK_SECTIONS:
        return
    for passage in passages_of(body):
        if tells(passage):
            yield Passage(SPEAKER.sub("", passage.text), weight=passage.weight)


def said_in(message: ChatMessage) -> Iterator[Passage]:
    """The passages of an earlier message; questions answer nothing."""
    if message.role in ("user", "assistant"):
        yield from filter(tells, passages_of(message.content))


def results_of(messages: Sequence[ChatMessage]) -> Iterator[Result]:
    """The tool calls since the question, each with what came of it."""
    calls = {call.id: call for message in messages for call in message.tool_calls}
    for message in messages:
        call = calls.get(message.tool_call_id or "") if message.role == "tool" else None
        if call is not None:
            arguments = parsed(call.arguments)
            value = parsed(message.content)
            fault = value.get("error") if isinstance(value, dict) and len(value) == 1 else None
            yield Result(call.name, arguments if isinstance(arguments, dict) else {}, value, str(fault or ""))


def urls_in(text: str) -> list[str]:
    """The addresses of web pages in a text, each once."""
    return list(dict.fromkeys(URL.findall(text)))


def paths_in(text: str) -> list[str]:
    """The files that a text names, each once."""
    words = PLACE.findall(URL.sub(" ", text))
    return list(dict.fromkeys(path for word in words if (path := path_in(word))))


def path_in(word: str) -> str:
    """The file that a word names, `src/app.py` of `src/app.py:12`; nothing where it names none."""
    path = word.replace(":", "@").partition("@")[0].rstrip(".-/")
    stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
    named = dot and stem and (stem[-1].isalnum() or stem[-1] == "_") and SUFFIX.fullmatch(suffix)
    return path if not path.startswith("/") and (named or (not dot and suffix in FILES)) else ""


def parsed(text: str) -> Any:
    """JSON data, or the text itself where it is none or is nested too deep."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [part for each in level for part in parts_of(each)]
    return text if level else value


def parts_of(value: Any) -> Iterable[Any]:
    """What a list or an object holds."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
