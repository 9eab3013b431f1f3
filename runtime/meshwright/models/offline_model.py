"""The built-in model, which needs neither key nor network: it quotes what it is given."""

from __future__ import annotations

import asyncio
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple

from meshwright.core.messages import Usage
from meshwright.core.money import Price
from meshwright.core.schema_checks import check_schema
from meshwright.models.errors import ModelRefused
from meshwright.models.offline_text import (
    Passage,
    SchemaFiller,
    cut_passages,
    passages_in,
    quote,
    relevance,
    split_words,
    terms,
    word_vector,
)
from meshwright.models.port import Adapter, ChatMessage, ModelReply, ModelRequest, OnDelta, ToolCall, ToolSpec
from meshwright.models.prices import Prices

_NAME = "offline"
_MAX_INLINE_CHARACTERS = 16_000  # of a request; a larger one is read in a thread, beside the event loop
_MAX_ASKED_CHARACTERS = 2_000  # of a question that decide what is done about it
_MIN_MATERIAL_CHARACTERS = 160  # of a text that comes with a question, to be worked on
_MAX_PASSAGES = 2_000
_MAX_LINES = 3  # of an answer
_SAME_CHARACTERS = 40  # with which passages begin that are the same, whole or cut
_LEAST_SHARE = 0.5  # of the best passage's score
_HONEST = (
    "This is the built-in offline model: it quotes what it is given and knows nothing itself. "
    "Set LITELLM_BASE_URL or a provider's key for a model that does."
)
_ONLY_SEARCHES = f"I only search, and do not calculate. {_HONEST}"
_TOKEN = re.compile(r"\w{1,6}|[^\w\s]")
_STREAMED = re.compile(r"\S+\s*|\s+")
_REMEMBER = re.compile(r"\W*(?:please\s)?(?:remember|keep in mind|note)(?:\sthat|:)?\s+(\S.*)", re.I | re.S)
_AGENT = re.compile(r"\b[a-z]+(?:-[a-z]+)*-(?:agent|coder|tester|manager|monitor|tracker|deployer)\b")
_URL = re.compile(r"https?://[^\s<>\"'`)\]]+[^\s<>\"'`)\].,;:!?]")
_PATH = re.compile(r"[\w./@-]+")
_FILE = re.compile(r"[\w.-]*(?:\w\.[A-Za-z]\w{0,4}|README|LICENSE|Makefile|Dockerfile)")
_BLANK_LINES = re.compile(r"\n[ \t]+(?=\n)")
_KNOWN = re.compile(
    r"^(?:RELEVANT_MEMORIES|CONVERSATION_CONTEXT|CONSTRAINTS|KNOWN_FAILURES):((?:\n[-* ].*)+)", re.M
)
_NOTED = re.compile(r"^- \[[\w-]+\] (.*?)(?: \(noted [^()]*\))?$", re.M)
"""A memory as a run shows it, with its id and its source."""
_LESS_TELLING = re.compile(r"(?:^|/)tests?/|test_|\.(?:lock|svg|css|csv)$|(?:^|/)(?:LICENSE|NOTICE|\.\w)")
_COMMITS = re.compile(r"\bcommits?\b|\bgit log\b|\bwhat (?:has )?changed\b|\bwhat is new\b", re.I)
_RESEARCH = re.compile(r"\b(?:research|compare|investigate|find out|look into|delegate)\b", re.I)
_RECKONS = terms(
    "add calculate compute divide equals minus multiply percent plus reckon result subtract sum times"
)
_PURPOSES = {
    "delegate": {"delegate", "handoff", "assign"},
    "remember": {"remember", "memorize", "note"},
    "fetch": {"fetch", "browse", "url", "page", "http"},
    "log": {"log", "commits", "history"},
    "search": {"search", "grep", "find", "query", "lookup"},
    "read": {"read", "open", "cat"},
}
"""The purpose of a tool, by a word of its name."""
_QUOTED = ("search", "read", "fetch")  # purposes of tools whose results are material
_WANTS = {
    "url": ("url", "uri", "link"),
    "agent": ("agent_id", "agent", "assignee"),
    "path": ("path", "file", "filename", "file_path"),
    "query": ("query", "q", "search", "keywords", "term"),
    "start": ("start_line", "first_line", "offset"),
    "text": ("text", "task", "question", "message", "prompt", "content", "fact", "input"),
}
"""The argument that a parameter takes, by the parameter's name."""


def estimate_tokens(text: str) -> int:
    """Roughly how many tokens a text is."""
    return len(_TOKEN.findall(text))


class OfflineModel(Adapter):
    """Deterministic: it calls the tools that fit the question by a word, and quotes the lines that fit.

    Takes time linear in the request. Fills a JSON schema where one is given, and refuses to compress a
    context, which then stays whole. Its answers cost nothing and say `model: offline`.
    """

    kind = _NAME

    def __init__(self, *, count_tokens: Callable[[str], int] = estimate_tokens, why: str = "") -> None:
        self.name = f"{_NAME} ({why})" if why else _NAME
        self.count_tokens = count_tokens

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Answer. A stream comes word by word. Raises InvalidSchema, ModelRefused."""
        size = sum(len(message.text) for message in request.messages) + len(str(request.tools))
        if request.response_schema is not None or size > _MAX_INLINE_CHARACTERS:
            reply = await asyncio.to_thread(self.reply, request)
        else:
            reply = self.reply(request)
        if on_delta is not None:
            await stream_words(reply.content, on_delta)
        return reply

    async def close(self) -> None:
        """Nothing to give back."""

    def prices(self, default: Price | None) -> Prices:
        """Nothing."""
        return Prices(free=True)

    def reply(self, request: ModelRequest) -> ModelReply:
        """Answer at once."""
        if request.inputs:
            texts = [text if isinstance(text, str) else " ".join(map(str, text)) for text in request.inputs]
            vectors = tuple(word_vector(text, request.params.get("dimensions")) for text in texts)
            tokens = Usage(prompt_tokens=sum(map(self.count_tokens, texts)))
            return self._made(request, "").model_copy(update={"embeddings": vectors, "usage": tokens})
        if "compression" in request.tags and not request.tools and request.response_schema is None:
            raise ModelRefused("The offline model quotes, and shortens nothing: the context stays whole")
        talk = _Talk(request.messages)
        if (next_call := _next_call(talk, request.tools)) is not None:
            text = json.dumps(next_call[1], ensure_ascii=False)
            call = ToolCall(id=f"call_{len(talk.results)}", name=next_call[0].name, arguments=text)
            reply = self._made(request, text, "tool_calls")
            return reply.model_copy(update={"content": "", "tool_calls": (call,)})
        if request.response_schema is not None:
            check_schema(request.response_schema, "response_format")
            texts = [passage.text for passage in talk.material]
            value = SchemaFiller(request.response_schema, texts, talk.question).value()
            return self._made(request, json.dumps(value, ensure_ascii=False))
        content = _answer(talk)
        if self.count_tokens(content) <= request.output_limit:
            return self._made(request, content)
        ends = range(len(content))
        end = bisect_right(ends, request.output_limit, key=lambda end: self.count_tokens(content[:end]))
        return self._made(request, content[: max(end - 1, 0)].rpartition(" ")[0], "length")

    def _made(self, request: ModelRequest, content: str, finish_reason: str = "stop") -> ModelReply:
        prompt = sum(self.count_tokens(message.text) for message in request.messages)
        return ModelReply(
            content=content,
            model=_NAME,
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


# Reading a request


class _Result(NamedTuple):
    name: str
    purpose: str
    arguments: dict[str, Any]
    value: Any
    error: str = ""


class _Talk:
    """A request, read: the question, the results of its tools, and the material that an answer may quote."""

    def __init__(self, messages: Sequence[ChatMessage]) -> None:
        question_places = [
            place
            for place, message in enumerate(messages)
            if message.role == "user" and not (place and messages[place - 1].role == "tool")
        ]
        place = question_places[-1] if question_places else len(messages)
        self.question, own_material = _split(messages[place].text.strip() if question_places else "")
        self.asked = self.question[:_MAX_ASKED_CHARACTERS]
        self.results = list(_results(messages[place + 1 :]))
        prompt = "\n".join(message.text for message in messages if message.role == "system")
        self.prompt = prompt[:_MAX_ASKED_CHARACTERS]
        earlier = [message.text for message in messages[:place] if message.role in ("user", "assistant")]
        texts = [part for text in earlier for part in _KNOWN.findall(_NOTED.sub(r"- \1", text)) or [text]]
        candidates = (passage for text in [*_KNOWN.findall(prompt), *texts] for passage in cut_passages(text))
        candidates = (one for one in candidates if not one.text.endswith("?") and one.text != self.question)
        background = list(islice(candidates, _MAX_PASSAGES))
        results = (passage for one in self.results if not one.error for passage in passages_in(one.value))
        self.found = [*own_material, *islice(results, _MAX_PASSAGES)]
        self.material = [*background, *self.found]
        self.pages = list(dict.fromkeys(_URL.findall(self.asked)))
        words = (word.rstrip(".-/") for word in _PATH.findall(_URL.sub(" ", self.asked)))
        self.files = [word for word in words if word[:1] != "/" and _FILE.fullmatch(word.rpartition("/")[2])]
        subject = _URL.sub(" ", self.asked)
        for file in self.files:
            subject = subject.replace(file, " ")
        self.words = split_words(subject)
        self.wanted = terms(subject)
        has_numbers = len(re.findall(r"\d+", self.asked)) > 1
        self.is_sum = has_numbers and not own_material and all(map(str.isdigit, self.wanted - _RECKONS))
        """Whether the question has numbers alone, and words of arithmetic."""
        self.is_known = bool(own_material) or any(self.wanted <= terms(one.text) for one in background)


def _split(text: str) -> tuple[str, list[Passage]]:
    """Part a question from the text that it is about, where a request brings one."""
    for separator in ("\n\n", "\n", ": "):
        head, _, rest = _BLANK_LINES.sub("\n\n", text).partition(separator)
        is_long = len(rest) >= _MIN_MATERIAL_CHARACTERS and (separator != ": " or "\n" not in text)
        material = [passage for passage in cut_passages(rest) if not passage.text.endswith("?")]
        if material and (is_long or (separator == "\n\n" and terms(head))):
            return head.strip(), material[:_MAX_PASSAGES]
    return text, []


def _results(messages: Sequence[ChatMessage]) -> Iterator[_Result]:
    calls = {call.id: call for message in messages for call in message.tool_calls}
    for message in messages:
        call = calls.get(message.tool_call_id or "") if message.role == "tool" else None
        if call is not None:
            arguments, value = _parsed(call.arguments), _parsed(message.text)
            fault = value.get("error") if isinstance(value, dict) and len(value) == 1 else None
            fields = arguments if isinstance(arguments, dict) else {}
            yield _Result(call.name, _purpose(call.name), fields, value, str(fault or ""))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


# Tools


def _next_call(talk: _Talk, tools: Sequence[ToolSpec]) -> tuple[ToolSpec, dict[str, Any]] | None:
    """The call to make now: no tool twice, and nothing after a call that settles the question."""
    settled = any(not result.error and result.purpose not in _QUOTED for result in talk.results)
    if not talk.question or talk.is_sum or settled:
        return None
    used = {result.name for result in talk.results}
    for purpose, wishes in _wishes(talk):
        for tool in tools:
            is_meant = purpose or not talk.wanted.isdisjoint(terms(tool.name))
            if is_meant and _purpose(tool.name) == purpose and tool.name not in used:
                arguments = _arguments(tool, wishes, talk)
                if arguments is not None:
                    return tool, arguments
    return None


def _wishes(talk: _Talk) -> Iterator[tuple[str, dict[str, Any]]]:
    """The purposes of tools that the question asks for, the best first, and the arguments that it gives."""
    purposes = {result.purpose for result in talk.results}
    agent = next(iter(_AGENT.findall(talk.asked) or _AGENT.findall(talk.prompt)), None)
    if match := _REMEMBER.match(talk.question):
        yield "remember", {"text": match[1].strip()}
    yield from (("fetch", {"url": page}) for page in talk.pages[:1])
    if _COMMITS.search(talk.asked):
        yield "log", {}
    if not purposes and (_AGENT.search(talk.asked) or _RESEARCH.search(talk.asked)):
        yield "delegate", {"text": talk.question, "agent": agent}
    yield from (("read", {"path": path}) for path in talk.files[:1])
    yield "", {}
    if talk.is_known or not talk.words or purposes & {"read", "fetch"}:
        return
    best = next(iter(_fitting([passage for passage in talk.found if passage.line], talk.wanted)), None)
    if best is not None:
        yield "read", {"path": best.source, "start": max(1, (best.line or 1) - 20)}
    elif not purposes:
        yield "search", {"query": " ".join(talk.words)}
        yield "delegate", {"text": talk.question, "agent": agent}


def _arguments(tool: ToolSpec, wishes: dict[str, Any], talk: _Talk) -> dict[str, Any] | None:
    """The arguments of a call; None where a parameter that is required cannot be filled."""
    arguments: dict[str, Any] = {}
    for name, schema in tool.parameters.get("properties", {}).items():
        want = next((want for want, names in _WANTS.items() if name.lower() in names), "")
        value = schema.get("const", wishes.get(want))
        if "enum" in schema and value not in schema["enum"]:
            choices = [choice for choice in schema["enum"] if str(choice) in talk.asked]
            value = max(choices, key=lambda choice: talk.asked.rfind(str(choice)), default=None)
        if value is None and name in tool.parameters.get("required", ()):
            usual = {"integer": 1, "number": 1, "boolean": False, "string": talk.question}
            if "enum" in schema:
                value = next(iter(schema["enum"]), None)
            elif want not in ("url", "path", "agent") and "pattern" not in schema:  # no name in free words
                value = usual.get(schema.get("type", "string"))
            if value is None:
                return None
        if value is not None:
            arguments[name] = value
    return arguments


def _purpose(name: str) -> str:
    words = set(re.split(r"[_\W]+", name.lower()))
    return next((purpose for purpose, names in _PURPOSES.items() if words & names), "")


# Answers


def _answer(talk: _Talk) -> str:
    results = [result for result in talk.results if not result.error]
    if parts := [_quoted_whole(result) for result in results if result.purpose not in _QUOTED]:
        return "\n\n".join(parts)
    if talk.is_sum:
        return _ONLY_SEARCHES
    material = talk.material if talk.wanted else talk.found
    if lines := [passage.cited() for passage in _fitting(material, talk.wanted)[:_MAX_LINES]]:
        return "\n".join(f"- {line}" for line in lines) if len(lines) > 1 else lines[0]
    if failed := [f"{result.name} failed: {quote(result.error)}" for result in talk.results if result.error]:
        return "\n\n".join(failed)
    if not talk.wanted and not talk.results:
        return f"Hello. {_HONEST}"
    about = f" about {quote(' '.join(split_words(talk.asked)), 80)!r}" if talk.wanted else ""
    return f"I found nothing{about} in what I was given. {_HONEST}"


def _quoted_whole(result: _Result) -> str:
    if result.purpose == "delegate":
        agent = next((str(value) for name, value in result.arguments.items() if "agent" in name), "the agent")
        return f"{agent} answers:\n\n{str(result.value).strip()}"
    if result.purpose == "remember":
        return f"{quote(str(result.value))} ({quote(str(result.arguments.get('text', '')))})"
    lines = [quote(passage.text) for passage in islice(passages_in(result.value), _MAX_PASSAGES)]
    return "\n- ".join([f"{result.name} gives:", *(lines[:10] or ["nothing"])])


def _fitting(passages: Sequence[Passage], query_terms: set[str]) -> list[Passage]:
    """The passages that fit what is wanted about as well as the best one, each once, the best first."""
    scores = relevance([terms(passage.text) for passage in passages], query_terms)
    weighted = [
        score * (0.2 if _LESS_TELLING.search(passage.source) else 1.0)
        for passage, score in zip(passages, scores, strict=True)
    ]
    least = _LEAST_SHARE * max(weighted, default=0.0)
    best: dict[str, Passage] = {}
    for place in sorted(range(len(passages)), key=lambda place: -weighted[place]):
        if weighted[place] > least:
            best.setdefault(passages[place].text[:_SAME_CHARACTERS], passages[place])
    return list(best.values())
