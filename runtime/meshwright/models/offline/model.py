"""The model that needs neither key nor network: it quotes what it is given, and says what it is."""

from __future__ import annotations

import asyncio
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from meshwright.messages import Usage
from meshwright.models.config import LiteLLMConfig
from meshwright.models.offline.forms import NUMBER, SchemaFiller, nearest, shorten
from meshwright.models.offline.reading import (
    MAX_ASKED_CHARACTERS,
    Passage,
    Result,
    Talk,
    centrality,
    places_in,
    quote,
    record_line,
    relevance,
    telling_words,
    terms,
    urls_in,
)
from meshwright.models.port import Model, ModelReply, ModelRequest, OnDelta, ToolCall, ToolSpec
from meshwright.models.prices import Prices
from meshwright.models.schema import check_schema
from meshwright.money import Price

NAME = "offline"
USUAL_GROUPS = frozenset({"default", "quality", "fast"})
_MAX_INLINE_CHARACTERS = 16_000  # of a request; a larger one is read in a thread, beside the event loop
_MAX_CALLS = 4
_MAX_POINTS = 5
_MAX_CANDIDATES = 100  # passages that are compared with one another
_MAX_RECORDS = 10
_TOKEN = re.compile(r"\w{1,6}|[^\w\s]")
_STREAMED = re.compile(r"\S+\s*|\s+")
_HONEST = (
    "This is the built-in offline model: it quotes what it is given and knows nothing itself. "
    "Set LITELLM_BASE_URL or a provider's key for a model that does."
)
_COUNTS = {"one": 1, "a single": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_COUNT = re.compile(r"\b(one|a single|two|three|four|five)\s(?:short\s)?(?:sentence|point|bullet|line)", re.I)
_LIMIT = re.compile(r"\b(?:under|below|at most|no more than|within)\s([\d,]{1,12})\stokens", re.I)
_AGENT = re.compile(r"\b[a-z]+(?:-[a-z]+)*-(?:agent|coder|tester|manager|monitor|tracker|deployer)\b")
_FOLDER = re.compile(r"\b(?:in|under|below|of)\s(?:the\s)?([\w.-]+(?:/[\w.-]+)*)")
_REMEMBER = re.compile(r"\W*(?:please\s)?(?:remember|keep in mind|note)(?:\sthat|:)?\s+(\S.*)", re.I | re.S)
_TRIGGERS = {
    "log": re.compile(r"\bcommits?\b|\bgit log\b|\bwhat (?:has )?changed\b|\bwhat is new\b", re.I),
    "diff": re.compile(r"\b(?:diff|uncommitted)\b", re.I),
    "delegate": re.compile(r"\b(?:research|compare|investigate|find out|look into|delegate)\b", re.I),
    "list": re.compile(r"\b(?:list|show|which|what)\b.{0,30}\b(?:files|folders|documents)\b", re.I),
}
_PURPOSES = {
    "delegate": ("delegate", "handoff", "assign"),
    "remember": ("remember", "memorize", "note"),
    "fetch": ("fetch", "browse", "url", "page", "http"),
    "log": ("log", "commits", "history"),
    "diff": ("diff", "changes"),
    "search": ("search", "grep", "find", "query", "lookup"),
    "read": ("read", "open", "cat"),
    "list": ("list", "ls", "dir"),
}
"""What a tool is for, by a word of its name."""
_QUOTED = ("search", "read", "fetch")  # purposes of tools whose results are material
_WANTS = {
    "url": ("url", "uri", "link", "address"),
    "agent": ("agent_id", "agent", "assignee"),
    "path": ("path", "file", "filename", "file_path"),
    "query": ("query", "q", "search", "keywords", "term"),
    "folder": ("folder", "directory", "dir"),
    "start": ("start_line", "first_line", "offset"),
    "text": ("text", "task", "question", "message", "prompt", "content", "fact", "input"),
}
"""What a parameter wants, by its name."""


def estimate_tokens(text: str) -> int:
    """Roughly how many tokens a text is."""
    return len(_TOKEN.findall(text))


class OfflineModel:
    """Deterministic and extractive: it calls the tools that fit the question, then answers in quotations.

    Takes time linear in the request. Fills a JSON schema where one is given; with the tag `compression` it
    shortens the last message, keeping its sections. Its answers cost nothing and say `model: offline`.
    """

    kind = NAME
    config: LiteLLMConfig | None = None

    def __init__(self, *, count_tokens: Callable[[str], int] = estimate_tokens, why: str = "") -> None:
        self.name = f"{NAME} ({why})" if why else NAME
        self.count_tokens = count_tokens

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Answer. A stream comes in words. Raises InvalidSchema for a schema that it cannot fill."""
        size = sum(len(message.content) for message in request.messages) + len(str(request.tools))
        if request.response_schema is not None or size > _MAX_INLINE_CHARACTERS:
            reply = await asyncio.to_thread(self.reply, request)
        else:
            reply = self.reply(request)
        if on_delta is not None:
            await stream_words(reply.content, on_delta)
        return reply

    async def close(self) -> None:
        """Nothing to give back."""

    def groups(self) -> frozenset[str]:
        """The usual ones; it answers any."""
        return USUAL_GROUPS

    def prices(self, default: Price | None) -> Prices:
        """Nothing."""
        return Prices.free()

    async def listed(self) -> None:
        """It has no server."""

    def alone(self, group: str | None, names: Collection[str]) -> tuple[Model, list[str]]:
        """Itself."""
        return self, [group or "default"]

    def reply(self, request: ModelRequest) -> ModelReply:
        """Answer at once."""
        if "compression" in request.tags and not request.tools and request.response_schema is None:
            return self._made(request, self._shortened(request))
        talk = Talk(request.messages)
        for tool, arguments in _calls(talk, request.tools):
            text = json.dumps(arguments, ensure_ascii=False)
            call = ToolCall(id=f"call_{len(talk.results)}", name=tool.name, arguments=text)
            made = self._made(request, text, "tool_calls")
            return made.model_copy(update={"content": "", "tool_calls": (call,)})
        if request.response_schema is not None:
            check_schema(request.response_schema, "response_format")
            texts = [passage.text for passage in (*talk.background, *talk.found)]
            value = SchemaFiller(request.response_schema, texts, talk.question).value()
            return self._made(request, json.dumps(value, ensure_ascii=False))
        content = _answer(talk)
        if self.count_tokens(content) <= request.max_tokens:
            return self._made(request, content)
        ends = range(len(content))
        end = bisect_right(ends, request.max_tokens, key=lambda end: self.count_tokens(content[:end]))
        return self._made(request, content[: max(end - 1, 0)].rpartition(" ")[0], "length")

    def _shortened(self, request: ModelRequest) -> str:
        prompt = "\n".join(each.content for each in request.messages if each.role == "system")
        text = request.messages[-1].content if request.messages else ""
        start = re.search(r"^METADATA:", text, re.MULTILINE)
        limits = [int(digits.replace(",", "") or 0) for digits in _LIMIT.findall(prompt)]
        limit = min([request.max_tokens, *filter(None, limits)])
        return shorten(text[start.start() :] if start else text, limit, self.count_tokens)

    def _made(self, request: ModelRequest, content: str, finish_reason: str = "stop") -> ModelReply:
        prompt = sum(self.count_tokens(message.content) for message in request.messages)
        return ModelReply(
            content=content,
            model=NAME,
            usage=Usage(prompt_tokens=prompt, completion_tokens=self.count_tokens(content)),
            cost_usd=Decimal(0),
            cost_source="priced",
            finish_reason=finish_reason,
        )


async def stream_words(text: str, on_delta: OnDelta) -> None:
    """Stream a text word by word; together they are the text."""
    for number, word in enumerate(_STREAMED.findall(text), 1):
        on_delta(word)
        if number % 100 == 0:  # others have their turn on the event loop
            await asyncio.sleep(0)


# Tools


def _calls(talk: Talk, tools: Sequence[ToolSpec]) -> Iterator[tuple[ToolSpec, dict[str, Any]]]:
    """The calls to make now, the best first; none twice, few in all, none after one that settles it."""
    settled = any(not each.error and _purpose(each.name) not in _QUOTED for each in talk.results)
    if not talk.question or settled or len(talk.results) >= _MAX_CALLS:
        return
    for purpose, known in _wishes(talk, tools):
        for tool in [tool for tool in tools if _purpose(tool.name) == purpose][:1]:
            yield from _call(tool, known, talk)
        if not purpose:
            for tool in (tool for tool in tools if not _purpose(tool.name) and _suits(tool, talk)):
                yield from _call(tool, known, talk)


def _wishes(talk: Talk, tools: Sequence[ToolSpec]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the question asks for: a tool's purpose, and what is known of its arguments."""
    purposes = [_purpose(result.name) for result in talk.results]
    places = places_in(talk.asked)
    pages = urls_in(talk.asked)
    files = [place for place in places if place not in pages]
    if told := _REMEMBER.match(talk.question):
        scope = next((each for each in ("project", "global") if each in talk.asked.lower()), None)
        yield "remember", {"text": told[1].strip(), "scope": scope}
    yield from (("fetch", {"url": page}) for page in pages[:2])
    for purpose in ("log", "diff"):
        if _TRIGGERS[purpose].search(talk.asked):
            yield purpose, {"path": next(iter(files), None)}
    agents = _AGENT.findall(talk.asked)
    if (agents or _TRIGGERS["delegate"].search(talk.asked)) and not talk.results:
        yield "delegate", {"text": talk.question, "agent": next(iter(agents), None)}
    yield from (("read", {"path": path}) for path in files[:2])
    if _TRIGGERS["list"].search(talk.asked) and not talk.results:
        folder = _FOLDER.search(talk.asked)
        yield "list", {"folder": folder and folder[1]}
    yield "", {}
    words = telling_words(talk.subject)
    if talk.is_known() or not words or "read" in purposes or "fetch" in purposes:
        return
    if not purposes:
        yield "search", {"query": " ".join(words)}
    elif not (found := _files_found(talk)):
        yield "search", {"query": max(words, key=len)}
    else:
        yield "read", {"path": found[0], "start": max(1, (found[1] or 1) - 20)}
    if not talk.results and not any(_purpose(tool.name) in _QUOTED for tool in tools):
        yield "delegate", {"text": talk.question}


def _call(tool: ToolSpec, known: Mapping[str, Any], talk: Talk) -> Iterator[tuple[ToolSpec, dict[str, Any]]]:
    """The call of a tool, where its required parameters can be filled and it was not made before."""
    arguments: dict[str, Any] = {}
    for name, schema in tool.parameters.get("properties", {}).items():
        value = schema.get("const", known.get(_want(name), known.get(name)))
        if value is None and name in tool.parameters.get("required", ()):
            value = _guess(_want(name), schema, talk)
            if value is None:
                return
        if value is not None and ("enum" not in schema or value in schema["enum"]):
            arguments[name] = value
    if not any((result.name, result.arguments) == (tool.name, arguments) for result in talk.results):
        yield tool, arguments


def _guess(want: str, schema: Mapping[str, Any], talk: Talk) -> Any:
    """A value for a required parameter, out of the question."""
    kind = schema.get("type", "string")
    if "enum" in schema:
        return nearest(schema["enum"], talk.asked)
    if kind in ("integer", "number"):
        found = NUMBER.search(talk.asked)
        value = float(found[0]) if found else schema.get("default", schema.get("minimum", 1))
        return int(value) if kind == "integer" else value
    if kind != "string":
        return False if kind == "boolean" else None
    if want in ("url", "path"):
        return next(iter(urls_in(talk.asked) if want == "url" else places_in(talk.asked)), None)
    if want == "agent":
        return next(iter([*_AGENT.findall(talk.asked), *_AGENT.findall(talk.prompt)]), None)
    if want in ("text", "query"):
        return talk.question
    quoted = re.search(r"[\"“`']([^\"”`']{1,100})[\"”`']", talk.asked)
    names = re.findall(r"(?<=[\w,] )[A-Z][\w-]*(?: [A-Z][\w-]*)*", talk.asked)
    words = re.findall(r"[\w-]+", talk.asked)
    return quoted[1] if quoted else next(reversed(names or words), None)


def _files_found(talk: Talk) -> tuple[str, int | None] | None:
    """The file that searches found most about, and its best line; what is written to be read counts more."""
    found = [passage for passage in talk.found if passage.source and passage.line]
    scores = relevance([passage.text for passage in found], talk.wanted)
    totals: dict[str, float] = {}
    best: dict[str, tuple[float, int | None]] = {}
    for passage, score in zip(found, scores, strict=True):
        totals[passage.source] = totals.get(passage.source, 0.0) + score * _file_weight(passage.source)
        if score > best.get(passage.source, (-1.0, None))[0]:
            best[passage.source] = score, passage.line
    name = max(totals, key=lambda source: totals[source], default=None)
    return None if name is None else (name, best[name][1])


def _suits(tool: ToolSpec, talk: Talk) -> bool:
    """Whether a tool's words are in the question: one of its name, or two of its description."""
    named, described = set(terms(tool.name.replace("_", " "))), set(terms(tool.description))
    return bool(named & talk.wanted) or len(described & talk.wanted) >= 2


def _purpose(name: str) -> str:
    words = set(re.split(r"[_\W]+", name.lower()))
    return next((purpose for purpose, names in _PURPOSES.items() if words.intersection(names)), "")


def _want(name: str) -> str:
    return next((want for want, names in _WANTS.items() if name.lower() in names), "")


def _file_weight(path: str) -> float:
    if re.search(r"(?:^|/)tests?/|test_|\.(?:lock|svg|css|csv)$|(?:^|/)(?:LICENSE|NOTICE|\.\w)", path):
        return 0.2
    return 1.5 if re.search(r"\.(?:md|rst|txt|adoc)$", path) else 1.0


# Answers


def _answer(talk: Talk) -> str:
    """Answer from the material; says so where there is nothing to answer from."""
    parts = [part for result in talk.results if not result.error and (part := _told(result))]
    if not parts and (points := _points(talk)):
        lines = [passage.cited() for passage in points]
        parts = ["\n".join(f"- {line}" for line in lines) if len(lines) > 1 else lines[0]]
    parts = parts or [f"{each.name} failed: {quote(each.error)}" for each in talk.results if each.error]
    if parts:
        return "\n\n".join(parts)
    if not talk.wanted and not talk.results:
        return f"Hello. {_HONEST}"
    about = f" about {quote(' '.join(telling_words(talk.asked)), 80)!r}" if talk.wanted else ""
    return f"I found nothing{about} in what I was given. {_HONEST}"


def _told(result: Result) -> str:
    """What is told of a result as it is; nothing of texts, of which the best passages are quoted."""
    purpose, value = _purpose(result.name), result.value
    if purpose in _QUOTED:
        return ""
    if purpose == "delegate":
        agent = next((str(each) for name, each in result.arguments.items() if "agent" in name), "the agent")
        return f"{agent} answers:\n\n{str(value).strip()}"
    lists = [each for each in value.values() if isinstance(each, list)] if isinstance(value, dict) else []
    value = lists[0] if len(lists) == 1 else value
    if isinstance(value, list):
        lines = [f"- {quote(record_line(each))}" for each in value[:_MAX_RECORDS]]
        more = [f"- and {len(value) - _MAX_RECORDS} more"] if len(value) > _MAX_RECORDS else []
        return "\n".join([f"{result.name} gives:", *(lines or ["nothing"]), *more])
    if purpose == "remember":
        return f"{quote(str(value))} ({quote(str(result.arguments.get('text', '')))})"
    return f"{result.name} gives: {quote(record_line(value), 2_000)}"


def _points(talk: Talk) -> list[Passage]:
    """The passages to quote: the best first, or for a summary the central ones in their order."""
    material = talk.found if not talk.wanted else [*talk.background, *talk.found]
    texts = [passage.text for passage in material]
    scores = relevance(texts, talk.wanted) if talk.wanted else centrality(texts)
    for place, passage in enumerate(material):
        scores[place] *= passage.weight * _file_weight(passage.source)
    count = _COUNT.search(talk.asked[:MAX_ASKED_CHARACTERS])
    chosen: list[int] = []
    told: list[set[str]] = []
    for place in _wholes(material, sorted(range(len(material)), key=lambda place: -scores[place])):
        words = set(terms(texts[place]))
        share = len(words & talk.wanted) / len(talk.wanted) if talk.wanted else 1.0
        if scores[place] <= 0.3 * scores[chosen[0] if chosen else place] * bool(chosen and talk.wanted):
            break
        if share >= (0.25 if material[place].source else 0.5) and words and _is_new(words, told):
            chosen.append(place)
            told.append(words)
        if len(chosen) == (_COUNTS[count[1].lower()] if count else _MAX_POINTS):
            break
    return [material[place] for place in (chosen if talk.wanted else sorted(chosen))]


def _wholes(material: Sequence[Passage], order: Sequence[int]) -> list[int]:
    """The best places, without passages that are a part of another of their source."""
    best = {place: quote(material[place].text) for place in order[:_MAX_CANDIDATES]}
    return [
        place
        for place, text in best.items()
        if not any(
            text != other and text in other and material[place].source == material[at].source
            for at, other in best.items()
        )
    ]


def _is_new(words: set[str], told: Sequence[set[str]]) -> bool:
    return all(len(words & other) <= 0.7 * min(len(words), len(other)) for other in told)
