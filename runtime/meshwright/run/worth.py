"""Whether the context of a run is compressed: where that saves more than it costs."""

from __future__ import annotations

from typing import Any

from meshwright.context.service import Compression
from meshwright.core.money import MILLION, Price
from meshwright.run.context import RunContext

_CALLS_WITH_TOOLS = 4  # of a run whose model may call tools, before one of its agent has ended
_OUTPUT_WEIGHT = 4  # of a token that is written, by one that is read, where prices are unknown


class Weighing:
    """Compares a compression with what it saves, for one run; `figures` say by which numbers.

    The context is in every call of the run, which is taken to have the median number of calls of the agent's
    last tasks. The first call pays for all input, later ones the price of input from the provider's cache.
    Both models count at their highest price. If a price is unknown or both cost nothing, tokens are compared,
    a written one as four that are read.
    """

    def __init__(self, attempt: RunContext, model: str, tags: tuple[str, ...]) -> None:
        self.figures: dict[str, Any] = {}
        self._attempt = attempt
        self._model, self._tags = model, tags
        usual = attempt.services.usual_calls.median(attempt.agent.agent_id)
        self._calls = usual or (_CALLS_WITH_TOOLS if attempt.tools else 1)

    def is_worth(self, wanted: Compression) -> bool:
        """Whether a call of the compression model saves more than it costs."""
        spared = max(wanted.tokens - wanted.ceiling, 0)
        cost_tokens = wanted.prompt_tokens + _OUTPUT_WEIGHT * wanted.ceiling
        saved_tokens = spared * self._calls
        self.figures = {
            "tokens": wanted.tokens,
            "ceiling": wanted.ceiling,
            "calls": self._calls,
            "cost_tokens": cost_tokens,
            "saved_tokens": saved_tokens,
        }
        of_run = self._price(self._model, self._tags, wanted.tokens)
        of_compression = self._price(wanted.model, wanted.tags, wanted.prompt_tokens)
        if of_run is None or of_compression is None:
            return saved_tokens > cost_tokens
        cost = of_compression.of(wanted.prompt_tokens, wanted.ceiling)
        later = of_run.input if of_run.cached_input is None else of_run.cached_input
        saved = spared * (of_run.input + (self._calls - 1) * later) / MILLION
        self.figures |= {"cost_usd": f"{cost:f}", "saved_usd": f"{saved:f}"}
        return saved > cost if cost or saved else saved_tokens > cost_tokens

    def _price(self, model: str, tags: tuple[str, ...], tokens: int) -> Price | None:
        task, agent = self._attempt.task, self._attempt.agent
        return self._attempt.services.price(model, tags, task.tenant_id, agent.agent_id, tokens)
