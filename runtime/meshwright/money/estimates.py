"""Estimates of calls of models: the most that they may cost, and the usual cost, learned from calls."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from meshwright.core.errors import HostError
from meshwright.core.messages import Usage
from meshwright.core.money import MILLION, ZERO, fit
from meshwright.models.port import ModelReply, ModelRequest, PriceList
from meshwright.models.usage import EXTRA_TOKENS, encoded, max_prompt_tokens, prompt_size
from meshwright.money.costs import AnsweredCall

_logger = logging.getLogger("meshwright.budgets")

PastCalls = Callable[[], Awaitable[Iterable[AnsweredCall]]]
_BYTES_PER_TOKEN = 3  # English text has four and more: rather too many tokens than too few
_TOKENS_PER_LETTER = 0.5  # of a prompt: words have 0.25, letters by chance just under this
_MARGIN = 1.5  # on the longest of the last answers, and on the price of tokens
_UNUSED_SHARE = 4  # of what an answer may have, one has this part, as long as nothing is known
_MIN_SEEN = 3  # calls, before anything is learned from them
_MAX_SEEN = 20
_MAX_KINDS = 1_000  # of calls, by agent, group and tags
_Kind = tuple[str, str, tuple[str, ...]]


@dataclass(slots=True)
class _CallHistory:
    """The last calls of one kind: the tokens that each wrote, and the most that a letter of a prompt took.

    `costs` are theirs; `dear` has 0 for each that its tokens explain: a provider may count none, or ask more.
    """

    completion_tokens: list[int] = field(default_factory=list)
    tokens_per_letter: float = _TOKENS_PER_LETTER
    dear: list[Decimal] = field(default_factory=list)
    costs: list[Decimal] = field(default_factory=list)

    @property
    def floor(self) -> Decimal:
        """The least to reserve for the next: the most of the last, and more the more they differ."""
        return fit(max(self.dear) + (max(self.dear) - min(self.dear)) / 2) if self.dear else ZERO


class Estimates:
    """Says what calls may cost, by a price list and by the calls before them.

    `past` reads those of the ledger, the oldest first, from which it learns before the first is made.
    """

    def __init__(self, prices: PriceList, past: PastCalls | None = None) -> None:
        self._prices = prices
        self._seen: OrderedDict[_Kind, _CallHistory] = OrderedDict()
        self._past = past
        self._reading = asyncio.Lock()

    async def prepare(self) -> None:
        """Learn from the calls of the ledger, once: all but what a letter of their prompts took."""
        if self._past is None:
            return
        async with self._reading:  # calls that begin together read them once
            if self._past is None:
                return
            try:
                for call in await self._past():
                    request = ModelRequest(messages=(), model=call.group, tags=call.tags, user=call.user)
                    self.learn(request, call.usage, call.cost_usd)
                    self.note_cost(request, call.cost_usd)
            except HostError as error:
                _logger.warning(
                    "Budgets reserve the most that calls may cost, until they learn more: %s", error
                )
            self._past = None  # after an error too: no call waits for the ledger again

    def upper_bound(self, request: ModelRequest) -> Decimal | None:
        """The most that a call may cost; None where it is unknown."""
        tokens = max_prompt_tokens(request)
        price = self._prices.upper_bound(request, tokens)
        history = self._seen.get(_call_kind(request), _CallHistory())
        return None if price is None else max(price.cost(tokens, request.output_limit), history.floor)

    def least(self, request: ModelRequest) -> Decimal | None:
        """The least that such a call needs: the longest of its last answers, with a margin.

        Never less than calls cost that cost more than their tokens.
        None where it cannot be known yet, or no price is.
        """
        history = self._seen.get(_call_kind(request))
        if history is None or len(history.completion_tokens) < _MIN_SEEN or request.inputs:
            return None
        prompt = _prompt_tokens(request, history)
        price = self._prices.upper_bound(request, prompt)
        likely_tokens = round(_MARGIN * max(history.completion_tokens)) + EXTRA_TOKENS
        if price is None:
            return None
        return max(price.cost(prompt, min(likely_tokens, request.output_limit)), history.floor)

    def usual(self, request: ModelRequest) -> Decimal | None:
        """The mean cost of the last such calls; None where none was answered yet."""
        costs = self._seen.get(_call_kind(request), _CallHistory()).costs
        return fit(sum(costs, ZERO) / len(costs)) if costs else None

    def dearest(self, request: ModelRequest) -> Decimal | None:
        """The cost of the dearest of the last such calls; None where none was answered yet."""
        return max(self._seen.get(_call_kind(request), _CallHistory()).costs, default=None)

    def likely(self, request: ModelRequest) -> Decimal | None:
        """The usual cost of such a call; before that is known, of one that writes a part of what it may."""
        if (usual := self.usual(request)) is not None:
            return usual
        tokens = estimated_tokens(_prompt_size(request))
        price = self._prices.upper_bound(request, tokens)
        return None if price is None else price.cost(tokens, request.output_limit // _UNUSED_SHARE)

    def limited(self, request: ModelRequest, amount: Decimal) -> ModelRequest:
        """The request with as many `max_tokens` as an amount pays for; the same one where it pays for all."""
        prompt = _prompt_tokens(request, self._seen.get(_call_kind(request), _CallHistory()))
        price = self._prices.upper_bound(request, prompt)
        if price is None or not price.output:
            return request
        tokens = int((amount - price.cost(prompt, 0)) * MILLION / price.output)
        return request.model_copy(update={"max_tokens": max(1, min(tokens, request.output_limit))})

    def note_cost(self, request: ModelRequest, cost: Decimal | None) -> None:
        """Note what a call cost that was answered."""
        if cost is not None:
            history = self._last(request)
            history.costs = [*history.costs[1 - _MAX_SEEN :], cost]

    def note_usual(self, request: ModelRequest, cost: Decimal) -> None:
        """Take over what such calls cost as a rule, where no call was answered here yet."""
        if self.usual(request) is None:
            self.note_cost(request, cost)

    def learn(self, request: ModelRequest, usage: Usage, cost: Decimal | None) -> None:
        """Learn from a call that was answered, and what it cost, where that is known."""
        history = self._last(request)
        history.completion_tokens = [*history.completion_tokens[1 - _MAX_SEEN :], usage.completion_tokens]
        price = self._prices.upper_bound(request, usage.prompt_tokens)
        if cost is not None and price is not None:
            by_tokens = price.cost(usage.prompt_tokens, usage.completion_tokens)
            dear = cost if cost > Decimal(_MARGIN) * by_tokens else ZERO
            history.dear = [*history.dear[1 - _MAX_SEEN :], dear]
        letters, others = _count_letters(request)
        if letters:
            per_letter = (usage.prompt_tokens - others) / letters
            history.tokens_per_letter = min(1.0, max(history.tokens_per_letter, per_letter))

    def _last(self, request: ModelRequest) -> _CallHistory:
        kind = _call_kind(request)
        history = self._seen.get(kind)
        if history is None:
            history = self._seen[kind] = _CallHistory()
        self._seen.move_to_end(kind)  # the first is the kind that is not used for longest
        if len(self._seen) > _MAX_KINDS:
            self._seen.popitem(last=False)
        return history


def estimated_usage(reply: ModelReply, request: ModelRequest) -> Usage:
    """The tokens of a reply, those that no server has counted estimated: one for each three bytes of text."""
    wrote = [reply.content, *(f"{call.name}{call.arguments}" for call in reply.tool_calls)]
    usage = reply.usage
    counts = {
        "prompt_tokens": usage.prompt_tokens or estimated_tokens(_prompt_size(request)),
        "completion_tokens": usage.completion_tokens or estimated_tokens(sum(map(text_size, wrote))),
    }
    return usage.model_copy(update=counts)


def _prompt_size(request: ModelRequest) -> int:
    prompt = prompt_size(request)
    return prompt.size + prompt.media


def estimated_tokens(size: int) -> int:
    """The tokens of so many bytes of text."""
    return -(-size // _BYTES_PER_TOKEN)


def text_size(text: str) -> int:
    """The bytes of a text, which may hold half of a character."""
    return len(encoded(text))


def _call_kind(request: ModelRequest) -> _Kind:
    return request.user, request.model, request.tags


def _prompt_tokens(request: ModelRequest, history: _CallHistory) -> int:
    """About the most tokens of a prompt: a letter takes half of one, every other byte a whole one."""
    letters, others = _count_letters(request)
    return min(max_prompt_tokens(request), round(history.tokens_per_letter * letters) + others)


def _count_letters(request: ModelRequest) -> tuple[int, int]:
    """The ASCII letters and spaces of a prompt; and its other bytes, with what a provider may add."""
    prompt = prompt_size(request)
    return prompt.size - prompt.others, prompt.others + prompt.media + prompt.extra_tokens
