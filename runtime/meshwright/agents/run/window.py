"""Keeps a conversation within its model's window: old results of tools are shortened, older turns summarised.

Decisions go by the journal alone (the window as it was when the run began, what providers counted,
which calls they refused), and the decision is journaled, so that a resumed run says the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import Any, Generic, TypeVar

from meshwright.agents.context.event_types import ContextShortened
from meshwright.agents.context.text import clip, count_tokens
from meshwright.agents.run.calls import ModelCalls
from meshwright.agents.run.preparation import PreparedPrompt
from meshwright.agents.run.state import RunState
from meshwright.core.encoding import Struct
from meshwright.engine.work.records import ProgressEvent
from meshwright.models.port import ChatMessage, ModelReply, ToolCall, ToolSpec, part_texts

_FULL = 0.85  # of the window, from which on a conversation is shortened
_ENOUGH = 0.7  # shortened so far, no turn is summarised
_TAIL = 0.3  # of the window for the turns that are never summarised
_SUMMARY = 0.1  # and for the summary of the others
_AFTER_REFUSAL = 0.75  # of what did not fit, the window is taken to be at most
_KEPT_RESULTS = 6  # the last ones, which stay whole
_SHORT_CHARS = 200  # of an old result, and of each text in the arguments of an old call
_MESSAGE_TOKENS = 8  # around the content of each message
_PART_TOKENS = 1_500  # of a picture or a file, about
_MAX_SUMMARY_TOKENS = 2_000
_MAX_SCALE = 4.0  # of a provider's tokens to ours
_MAX_CALLS_LISTED = 40


class Shortening(Struct):
    """How a conversation was shortened, as its journal has it.

    The messages from the head to `through` are replaced by the `summary`; those before `old` have short
    results and arguments; no other result has more than `longest` tokens, where that is set.
    """

    old: int
    through: int = 0
    summary: str = ""
    longest: int = 0
    how: tuple[str, ...] = ()
    error: str | None = None
    tokens_before: int = 0
    tokens_after: int = 0

    def events(self, messages: int) -> list[ProgressEvent]:
        """The event of it."""
        shortened = ContextShortened(
            how=list(self.how),
            messages=messages,
            tokens_before=self.tokens_before,
            tokens_after=self.tokens_after,
            error=self.error,
        )
        return [ProgressEvent.from_payload(shortened)]


class ContextWindow:
    """The window of one conversation. Its first `head` messages stay as they are."""

    def __init__(
        self,
        state: RunState,
        calls: ModelCalls,
        prepared: PreparedPrompt,
        head: int,
        specs: Sequence[ToolSpec],
    ) -> None:
        self._state = state
        self._calls = calls
        self._head = head
        self._specs = specs
        self._limit = _room_for_input(prepared)
        self._asked: tuple[ChatMessage, ...] = ()
        self._counted: tuple[tuple[ChatMessage, ...], int] | None = None

    def ask(self, messages: Sequence[ChatMessage]) -> None:
        """Note what a call is made with, whose size is estimated only where it matters."""
        self._asked = tuple(messages)

    def learn(self, reply: ModelReply) -> None:
        """Compare the estimate with what the provider counted, where that is of one prompt."""
        if self._asked and reply.attempts <= 1 and (counted := reply.usage.prompt_tokens):
            self._counted = self._asked, counted

    def refused(self) -> None:
        """Learn from a call that did not fit."""
        most = int(self._size(self._asked) * _AFTER_REFUSAL)
        self._limit = most if self._limit is None else min(most, self._limit)

    async def fit(self, messages: list[ChatMessage], *, is_refused: bool = False) -> bool:
        """Shorten a conversation in place where it fills the window, or was refused; returns whether it did.

        A reply's calls and their results are never parted, and its last turn is never summarised.
        """
        limit = self._limit
        if limit is None:
            return False
        request = {"messages": len(messages)}
        upcoming = self._state.journal.upcoming()
        is_full = is_refused or self._fills(messages, _FULL * limit)
        if upcoming != "shorten" and (upcoming is not None or not is_full):
            return False
        result = await self._state.journal.step(
            "shorten",
            request,
            lambda: self._shorten(messages, limit),
            shape=Shortening,
            tell=lambda short: short.events(len(messages)),
        )
        short = result if isinstance(result, Shortening) else Shortening.model_validate(result)
        shorter = self._apply(messages, short)
        changed = shorter != messages
        messages[:] = shorter
        self._tokens.forget()
        self._characters.forget()
        return changed

    async def _shorten(self, messages: Sequence[ChatMessage], limit: int) -> Shortening:
        short = Shortening(old=self._old(messages), how=("results",), tokens_before=self._size(messages))
        error = None
        if self._size(self._apply(messages, short)) > _ENOUGH * limit:
            through = self._through(messages, short, limit)
            if through > self._head:
                most = max(200, min(_MAX_SUMMARY_TOKENS, int(limit * _SUMMARY)))
                summary, error = await self._summary(messages[self._head : through], most, limit)
                how = (*short.how, "summary" if error is None else "list of calls")
                short = short.model_copy(
                    update={"through": through, "summary": summary, "how": how, "error": error}
                )
        shorter = self._apply(messages, short)
        if self._size(shorter) > _FULL * limit:
            longest = self._longest(shorter, limit)
            short = short.model_copy(update={"longest": longest, "how": (*short.how, "new results")})
            shorter = self._apply(messages, short)
        return short.model_copy(update={"tokens_after": self._size(shorter)})

    def _old(self, messages: Sequence[ChatMessage]) -> int:
        """The index at which the last results begin, or the last turn: they stay whole."""
        results = [n for n, message in enumerate(messages) if message.role == "tool"]
        turns = self._turns(messages)
        ends = [*results[-_KEPT_RESULTS:][:1], *turns[-1:]]
        return min(ends, default=self._head)

    def _turns(self, messages: Sequence[ChatMessage]) -> list[int]:
        return [n for n, message in enumerate(messages) if n >= self._head and message.role == "assistant"]

    def _through(self, messages: Sequence[ChatMessage], short: Shortening, limit: int) -> int:
        """The index of the first turn that stays: those that fit into their share, and the last."""
        shorter = self._apply(messages, short)
        turns = self._turns(messages)
        fitting = [n for n in turns if self._size(shorter[n:]) <= _TAIL * limit]
        return min(fitting, default=turns[-1] if turns else self._head)

    def _longest(self, messages: Sequence[ChatMessage], limit: int) -> int:
        results = [message for message in messages if message.role == "tool"]
        others = self._size([message for message in messages if message.role != "tool"])
        room = max(0.0, limit * _ENOUGH - others) / self._scale
        return max(50, int(room / max(1, len(results))))

    def _apply(self, messages: Sequence[ChatMessage], short: Shortening) -> list[ChatMessage]:
        shorter = [
            _short(message) if self._head <= n < short.old else message for n, message in enumerate(messages)
        ]
        if short.longest:
            shorter = [
                _cut(message, short.longest) if message.role == "tool" else message for message in shorter
            ]
        if short.through:
            shorter[self._head : short.through] = [ChatMessage(role="user", content=short.summary)]
        return shorter

    async def _summary(
        self, messages: Sequence[ChatMessage], max_tokens: int, limit: int
    ) -> tuple[str, str | None]:
        """A text in place of older turns, by the compression model; where it fails, the list of calls."""
        state = self._state
        text, error = await state.services.context.summarise(
            material(messages, int(limit * _ENOUGH / self._scale)),
            max_tokens=max_tokens,
            context=partial(self._calls.context, state.journal.inside),
        )
        text = _listed(messages, max_tokens) if text is None else text
        return f"Earlier messages of this conversation were left out. This happened in them:\n{text}", error

    def _fills(self, messages: Sequence[ChatMessage], tokens: float) -> bool:
        """Whether a conversation has more tokens. Most have far fewer, as their characters say for less."""
        characters = sum(map(len, self._fixed_texts)) + self._characters.total(messages)
        if characters * _MAX_SCALE <= tokens:  # no text has more tokens than characters
            return False
        return self._estimate(messages) * self._scale > tokens

    @cached_property
    def _tokens(self) -> _Prefix[int]:
        return _Prefix(0, lambda tokens, message: tokens + _count_tokens(message))

    @cached_property
    def _characters(self) -> _Prefix[int]:
        return _Prefix(0, lambda characters, message: characters + _sum_texts(message, len))

    @cached_property
    def _fixed_texts(self) -> list[str]:
        return [spec.model_dump_json() for spec in self._specs]

    @cached_property
    def _fixed(self) -> int:
        return sum(map(count_tokens, self._fixed_texts))

    @property
    def _scale(self) -> float:
        """The provider's count for each token that we estimate."""
        if self._counted is None:
            return 1.0
        messages, counted = self._counted
        return min(_MAX_SCALE, max(0.5, counted / self._estimate(messages)))

    def _size(self, messages: Sequence[ChatMessage]) -> int:
        return int((self._fixed + sum(map(_count_tokens, messages))) * self._scale)

    def _estimate(self, messages: Sequence[ChatMessage]) -> int:
        return self._fixed + self._tokens.total(messages)


def _room_for_input(prepared: PreparedPrompt) -> int | None:
    """The tokens of a window that messages may take: without those of the reply."""
    if prepared.window is None:
        return None
    return prepared.window - min(prepared.max_tokens, prepared.window // 4)


def _count_tokens(message: ChatMessage) -> int:
    return _sum_texts(message, count_tokens)


def _sum_texts(message: ChatMessage, measure: Callable[[str], int]) -> int:
    """The size of a message, whose texts are measured."""
    texts = [message.content, *(f"{call.name} {call.id} {call.arguments}" for call in message.tool_calls)]
    texts += [str(block) for block in message.thinking]
    words = part_texts(message.parts)
    others = len(message.parts) - len(words)
    return _MESSAGE_TOKENS + sum(map(measure, (*texts, *words))) + _PART_TOKENS * others


def _short(message: ChatMessage) -> ChatMessage:
    """An old message: of its result the beginning and no file, of its calls' arguments the short ones."""
    message = _without_files(message)
    if message.role == "tool" and len(message.content) > _SHORT_CHARS:
        return message.model_copy(update={"content": _beginning(message.content)})
    if any(len(call.arguments) > _SHORT_CHARS for call in message.tool_calls):
        return message.model_copy(update={"tool_calls": tuple(map(_short_call, message.tool_calls))})
    return message


def _short_call(call: ToolCall) -> ToolCall:
    with suppress(ValueError):
        arguments = json.loads(call.arguments)
        if isinstance(arguments, dict):
            short = {name: _short_value(value) for name, value in arguments.items()}
            return call.model_copy(update={"arguments": json.dumps(short, ensure_ascii=False)})
    return call


def _short_value(value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return value if len(text) <= _SHORT_CHARS else _beginning(text)


def _beginning(text: str) -> str:
    return f"{text[: _SHORT_CHARS // 2]}... [shortened: {len(text):,} characters]"


def _without_files(message: ChatMessage) -> ChatMessage:
    if message.role != "tool" or not message.parts:
        return message
    return message.model_copy(update={"content": f"{message.content} [files left out]", "parts": ()})


def _cut(message: ChatMessage, max_tokens: int) -> ChatMessage:
    if _count_tokens(message) > max_tokens:
        message = _without_files(message)
    content = clip(message.content, max_tokens)
    if content == message.content:
        return message
    return message.model_copy(
        update={"content": f"{content} [shortened: {len(message.content):,} characters]"}
    )


def material(messages: Sequence[ChatMessage], max_tokens: int) -> str:
    """Messages as a text that a model summarises: a line for each, with an equal share of the tokens."""
    share = max(40, max_tokens // max(1, len(messages)))
    lines: list[str] = []
    for message in messages:
        called = "; ".join(f"calls {call.name}({call.arguments})" for call in message.tool_calls)
        text = " ".join(filter(None, (message.content, called)))
        lines.append(f"{message.role}: {clip(text, share)}")
    return clip("\n".join(lines), max_tokens)


def _listed(messages: Sequence[ChatMessage], max_tokens: int) -> str:
    calls = {call.id: call for message in messages for call in message.tool_calls}
    counted = Counter(call.name for call in calls.values())
    results = [
        f"- {call.name}({_line(call.arguments)}) -> {_line(message.content)}"
        for message in messages
        if message.tool_call_id is not None and (call := calls.get(message.tool_call_id)) is not None
    ]
    texts = [
        _line(message.content, 4 * _SHORT_CHARS)
        for message in messages
        if message.role == "user" and message.content
    ]
    numbers = ", ".join(f"{name} {times} times" for name, times in counted.items())
    lines = [*texts[:1], f"Tools were called: {numbers}." if numbers else "", "The latest calls:"]
    latest = results[-_MAX_CALLS_LISTED:]
    while latest and count_tokens("\n".join((*lines, *latest))) > max_tokens:
        latest = latest[len(latest) // 4 + 1 :]
    return clip("\n".join(filter(None, (*lines, *latest))), max_tokens)


def _line(text: str, max_chars: int = _SHORT_CHARS // 2) -> str:
    return " ".join(text.split())[:max_chars]


_ValueT = TypeVar("_ValueT")


class _Prefix(Generic[_ValueT]):
    """Adds up messages: what a conversation began with before is not looked at again.

    A message is known by its identity, so code that changes one within the conversation must call `forget`.
    """

    def __init__(self, start: _ValueT, add: Callable[[_ValueT, ChatMessage], _ValueT]) -> None:
        self._add = add
        self._messages: list[ChatMessage] = []
        self._values = [start]

    def forget(self) -> None:
        """Begin again."""
        del self._messages[:], self._values[1:]

    def total(self, messages: Sequence[ChatMessage]) -> _ValueT:
        """The sum of all messages."""
        shared = min(len(self._messages), len(messages))
        while shared and self._messages[shared - 1] is not messages[shared - 1]:
            shared -= 1
        if shared == len(messages):  # what goes on behind them is looked at again soon
            return self._values[shared]
        del self._messages[shared:], self._values[shared + 1 :]
        for message in messages[shared:]:
            self._messages.append(message)
            self._values.append(self._add(self._values[-1], message))
        return self._values[-1]
