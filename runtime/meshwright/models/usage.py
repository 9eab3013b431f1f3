"""The usage and the cost that providers report: taken as far as the request allows, else named."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from msgspec.structs import astuple
from pydantic_core import to_json

from meshwright.core.messages import Usage
from meshwright.core.money import MILLION, reported_cost
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest
from meshwright.models.written import written

EXTRA_TOKENS = 16  # what a provider may add around a message, a call, a tool or a schema
_IMAGE_TOKENS = 10_000  # providers make fewer of nearly every picture, however many bytes it has
_FILE_TOKENS = 50_000  # of a file that only the provider has
_MEDIA_FACTOR = 10  # some models count a picture, or a long file, several times as high
_ADDED_TOKENS = 4_096  # instructions for tools that providers put before a prompt
_SEARCHED_TOKENS = 131_072  # pages that a provider has searched, where the request lets it
_HIDDEN_TOKENS = 16_384  # some providers do not count a model's reasoning to the limit
_LONGEST_REPLY = 131_072  # of a model, where the request has no limit
_BYTES_PER_CHARACTER = 4
_MAX_PRICE = Decimal(1_000)  # dollars per million tokens: above every price list
_MAX_FEES = Decimal(1)  # of one call, beside its tokens
_MAX_SHOWN = 10**18
_LETTERS = b" abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_INTEGERS = frozenset({int})
_WRITTEN = frozenset({"completion_tokens", "reasoning_tokens"})
_IN_PROMPT = ("cached_tokens", "cache_write_tokens")

UsageFields = Mapping[str, tuple[tuple[str, ...], ...]]
"""The places of each field of `Usage` in a provider's document; the numbers of several are added up."""
_OWN_FIELDS: UsageFields = {name: ((name,),) for name in Usage.__struct_fields__}


class UsageReading(NamedTuple):
    """The tokens that a provider counted, 0 where it did not; `problem` names what was not taken, and why."""

    usage: Usage
    problem: str = ""


def read_usage(
    document: Any, fields: UsageFields, request: ModelRequest, written_chars: int = 0
) -> UsageReading:
    """Read what a provider counted, for all wires. Never fails.

    Takes whole numbers from 0 to what the request allows: its bytes for the prompt, its limit or the
    characters of the reply for the answer, with some slack. All else counts as 0 and is named.
    """
    counts: dict[str, int] = {}
    problems: list[str] = []
    for name, places in fields.items():
        counts[name] = 0
        for place in places:
            value = _at(document, place)
            if value is None:
                continue
            counts[name] += value if type(value) is int else 0
            if (
                type(value) is not int
                or value < 0
                or _is_too_much(name, counts[name], request, written_chars)
            ):
                problems.append(f"{'.'.join(place)} is {_shown(value)}")
                counts[name] = 0
                break
    if sum(counts.get(name, 0) for name in _IN_PROMPT) > counts["prompt_tokens"]:
        if not problems:  # else the prompt's own number was not taken
            problems.append("the tokens of its cache are more than the prompt has")
        counts |= dict.fromkeys(_IN_PROMPT, 0)
    return UsageReading(Usage(**counts), _problem(problems, request))


def checked_reply(reply: ModelReply, request: ModelRequest) -> ModelReply:
    """The reply of any adapter with a usage and a reported cost that the request allows.

    Refused fields are named in `usage_problem`.
    """
    update: dict[str, Any] = {}
    if not _is_small(reply.usage):
        document = {name: getattr(reply.usage, name) for name in _OWN_FIELDS}
        usage, problem = read_usage(document, _OWN_FIELDS, request, count_written_chars(reply))
        update = {"usage": usage, "usage_problem": problem} if problem else {}
    if reply.cost_source == "reported":
        for name in ("cost_usd", "saved_usd"):
            cost = getattr(reply, name)
            if cost is not None and not _is_possible(cost, reply, request):
                update |= {name: None, "usage_problem": _problem([f"the cost is {_shown(cost)}"], request)}
    if update and not reply.cache_hit and ("cost_usd" in update or reply.cost_source != "reported"):
        update["cost_source"] = "estimated"
    return reply.model_copy(update=update) if update else reply


def count_written_chars(reply: ModelReply) -> int:
    """The characters of a reply's text and of its calls of tools."""
    return len(reply.content) + sum(len(call.name) + len(call.arguments) for call in reply.tool_calls)


class PromptSize:
    """The size of a prompt. `size` are the bytes of its texts, `others` those that are no letters and spaces.

    Both are without pictures and files, which have about `media` tokens. `parts` counts texts and media.
    """

    def __init__(self) -> None:
        self.size = self.others = self.media = self.parts = 0

    def add(self, message: ChatMessage) -> None:
        """Add the next message: its text, its thinking, its calls of tools and its media."""
        self.add_text(encoded(message.text))
        for block in message.thinking:
            self.add_text(to_json(block))
        for call in message.tool_calls:
            self.add_text(encoded(f"{call.id}{call.name}{call.arguments}"))
        for part in message.parts:
            if tokens := _media_tokens(part):
                self.media += tokens
                self.parts += 1

    def add_text(self, text: bytes) -> None:
        """Add a text."""
        self.size += len(text)
        self.others += len(text.translate(None, _LETTERS))
        self.parts += 1

    @property
    def extra_tokens(self) -> int:
        """The tokens that a provider may add to all of it."""
        return EXTRA_TOKENS * (1 + self.parts)

    @property
    def max_tokens(self) -> int:
        """A bound on its tokens: no tokenizer makes more tokens than there are bytes."""
        return self.size + self.media + self.extra_tokens


def prompt_size(request: ModelRequest) -> PromptSize:
    """The size of a request: messages, calls of tools, tools and schemas; rather too much of media."""
    prompt = PromptSize()
    vars(prompt).update(vars(written(request, PromptSize)))  # the conversation goes on with that one
    for text in request.inputs:
        prompt.add_text(encoded(text) if isinstance(text, str) else b"1" * len(text))
    for tool in request.tools:
        prompt.add_text(encoded(f"{tool.name}{tool.description}"))
        prompt.add_text(to_json(tool.parameters))
    if request.response_schema is not None:
        prompt.add_text(to_json(request.response_schema))
    return prompt


def max_prompt_tokens(request: ModelRequest) -> int:
    """A bound on the tokens of a request's prompt."""
    return prompt_size(request).max_tokens


def encoded(text: str) -> bytes:
    """The bytes of a text, which may hold half of a character."""
    return text.encode(errors="surrogatepass")


def _media_tokens(part: Mapping[str, Any]) -> int:
    match part:
        case {"type": "text"}:
            return 0
        case {"type": "file", "file": {"file_data": str(data)}} | {"input_audio": {"data": str(data)}}:
            return len(data)
        case {"type": "file"}:
            return _FILE_TOKENS
        case _:
            return _IMAGE_TOKENS


def _at(document: Any, place: tuple[str, ...]) -> Any:
    """The value at a place; what stands in the place of an object is returned as it is, to be named."""
    for name in place:
        if not isinstance(document, dict):
            return document
        document = document.get(name)
    return document


def _is_small(usage: Usage) -> bool:
    """Whether every request allows these numbers: most replies need no look at the request."""
    counts = astuple(usage)
    if not _INTEGERS.issuperset(map(type, counts)) or min(counts) < 0 or max(counts) > _ADDED_TOKENS:
        return False
    return usage.cached_tokens + usage.cache_write_tokens <= usage.prompt_tokens


def _is_too_much(name: str, count: int, request: ModelRequest, written_chars: int) -> bool:
    if name in _WRITTEN:
        return count > _HIDDEN_TOKENS and count > _max_written(request, written_chars)
    return count > _ADDED_TOKENS and count > _max_read(request)


def _max_read(request: ModelRequest) -> int:
    searched = _SEARCHED_TOKENS if "web_search_options" in request.params else 0
    prompt = prompt_size(request)
    media = (_MEDIA_FACTOR - 1) * prompt.media
    return prompt.max_tokens + media + searched + _ADDED_TOKENS


def _max_written(request: ModelRequest, written_chars: int) -> int:
    limit = _LONGEST_REPLY if request.max_tokens is None else request.max_tokens
    return max(limit, written_chars * _BYTES_PER_CHARACTER) + _HIDDEN_TOKENS


def _is_possible(cost: Any, reply: ModelReply, request: ModelRequest) -> bool:
    """Whether a call may have cost so much: at a price per token above every price list."""
    amount = reported_cost(cost)
    tokens = _max_read(request) + _max_written(request, count_written_chars(reply))
    return amount is not None and amount <= _MAX_FEES + tokens * _MAX_PRICE / MILLION


def _problem(problems: list[str], request: ModelRequest) -> str:
    if not problems:
        return ""
    return f"The provider of model {request.model!r} reports a usage that cannot be: {', '.join(problems)}"


def _shown(value: Any) -> str:
    """A value as one may show it: a number of moderate length, else its kind."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if abs(value) < _MAX_SHOWN else "a number of more than 18 digits"
    if isinstance(value, (float, Decimal)):
        return f"{value:.9g}"
    return {str: "a text", dict: "an object", list: "a list"}.get(type(value), "no number")
