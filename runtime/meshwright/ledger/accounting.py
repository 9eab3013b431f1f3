"""Accounts for every call of a model: what it may cost before, what it did cost after, and that it was."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from meshwright import topics
from meshwright.errors import HostError, InvalidInput, ModelError, TooLarge
from meshwright.host import Host
from meshwright.ledger.budgets import Budgets, Hold
from meshwright.ledger.calls import CALLED, call_id_of, called, leave
from meshwright.ledger.estimate import Heard, PriceList, estimated_usage, most_prompt_tokens
from meshwright.messages import Event, Usage, new_id
from meshwright.models.port import (
    ContentRefused,
    Model,
    ModelReply,
    ModelRequest,
    ModelTimeout,
    OnDelta,
)
from meshwright.money import ZERO, reported_cost

logger = logging.getLogger("meshwright.ledger")
MAY_COST = (ModelTimeout, ContentRefused)
"""Failures after which the provider may have worked, and bill for it; the others cost nothing."""

Emit = Callable[[ModelRequest, dict[str, Any]], None]
"""Tells the mesh of a call: the request, and the payload of `model.called`."""


class Accounted:
    """A model whose calls stay within the budgets, and are all in the ledger: the outermost wrapper.

    The most that a call may cost is reserved before it and settled after it. `emit` is told of the calls that
    no journal tells of: those that fail or are cancelled, and those of no task.
    """

    def __init__(self, model: Model, budgets: Budgets, prices: PriceList, emit: Emit) -> None:
        self.name = model.name
        self.model = model
        self.budgets = budgets
        self._prices = prices
        self._emit = emit

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Make the call, if the budgets allow it; the reply says what it cost, where that is known.

        Raises BudgetExceeded or PriceUnknown where one does not, and what the model raises.
        """
        call_id = call_id_of(request)
        started = time.perf_counter()
        heard = Heard(on_delta)
        hold: Hold | None = None
        try:
            hold = await self.budgets.hold(request, call_id, self._most)
            reply = await self.model.complete(hold.request, heard.on_delta)
        except BaseException as error:  # also cancelled: it may have cost something all the same
            self._end(request, call_id, started, heard, hold, error)
            raise
        reply = self._with_lost(self._priced(reply, hold.request, started), hold.request, heard)
        if hold.request.tags != request.tags:  # the journal, which tells of it, knows the first ones alone
            reply = reply.model_copy(update={"tags": hold.request.tags})
        self.budgets.settle(hold, reply.cost_usd)
        if request.context.task_id is None:
            self._emit(
                request, called(hold.request, call_id=call_id, reply=reply, latency_ms=reply.latency_ms)
            )
        return reply

    async def close(self) -> None:
        """Book what is still to be booked, and close the model."""
        await self.budgets.settled()
        await self.model.close()

    def _most(self, request: ModelRequest) -> Decimal | None:
        """The most that a call may cost."""
        tokens = most_prompt_tokens(request)
        price = self._prices.most(request, tokens)
        return None if price is None else price.of(tokens, request.max_tokens)

    def _priced(self, reply: ModelReply, request: ModelRequest, started: float) -> ModelReply:
        """The reply with what it cost: as whoever answered says, else by our prices."""
        reported = None if reply.cost_usd is None else reported_cost(reply.cost_usd)
        update: dict[str, Any] = {"latency_ms": since(started), "cost_usd": reported}
        if reply.cache_hit:
            update["cost_usd"] = ZERO
            if reply.saved_usd is None:
                made = reply.model_copy(update={"cache_hit": False})
                update["saved_usd"] = self._prices.of_reply(made, request)
        elif reported is None:
            source = "estimated" if reply.cost_source == "estimated" else "priced"
            if source == "estimated":
                update["usage"] = estimated_usage(reply, request)
            cost = self._prices.of_reply(reply.model_copy(update=update), request)
            update |= {"cost_usd": cost, "cost_source": "unknown" if cost is None else source}
        return reply.model_copy(update=update)

    def _with_lost(self, reply: ModelReply, request: ModelRequest, heard: Heard) -> ModelReply:
        """The reply with the tokens and cost of streams that broke off before it, where we know a price."""
        lost = None if reply.cache_hit else heard.lost_usage(reply)
        if lost is None or reply.cost_usd is None:
            return reply
        cost = self._prices.of_reply(reply.model_copy(update={"usage": lost}), request)
        if cost is None:
            return reply
        whole = {"usage": reply.usage + lost, "cost_usd": reply.cost_usd + cost, "cost_source": "estimated"}
        return reply.model_copy(update=whole)

    def _end(
        self,
        request: ModelRequest,
        call_id: str,
        started: float,
        heard: Heard,
        hold: Hold | None,
        error: BaseException,
    ) -> None:
        """Account for a call that ended without a reply, and leave it with the error."""
        cost, usage = (ZERO, Usage()) if hold is None else self._lost(hold, heard, error)
        if hold is not None:
            self.budgets.settle(hold, cost)
        payload = called(
            request if hold is None else hold.request,
            call_id=call_id,
            error=error,
            cancelled=isinstance(error, asyncio.CancelledError),
            cost_usd=cost,
            cost_source="unknown" if cost is None else "estimated" if cost else "priced",
            usage=usage,
            latency_ms=since(started),
        )
        leave(error, payload)
        self._emit(request, payload)

    def _lost(self, hold: Hold, heard: Heard, error: BaseException) -> tuple[Decimal | None, Usage]:
        """What a call that ended without a reply may have cost, and used.

        What was streamed is counted; where nothing was and the provider may have worked, it is the estimate.
        """
        harmless = isinstance(error, ModelError | InvalidInput) and not isinstance(error, MAY_COST)
        made_none = getattr(error, "attempts", 1) == 0  # it waited for another call, as a cache has it wait
        if made_none or (harmless and not heard.bytes):
            return ZERO, Usage()
        usage = heard.usage(hold.request)
        price = self._prices.most(hold.request, usage.prompt_tokens)
        return None if price is None else price.of(usage.prompt_tokens, usage.completion_tokens), usage


def emit_on(host: Host) -> Emit:
    """Tell of calls on a host's bus."""

    def emit(request: ModelRequest, payload: dict[str, Any]) -> None:
        aggregate = f"mesh/{host.incarnation}"
        task_id = request.context.task_id
        event = Event(
            # The call of a task's step has the same id again when it is repeated, and is told each time.
            id=f"{aggregate}/{payload['call_id'] if task_id is None else new_id()}",
            event_type=CALLED,
            topic=topics.MESH if task_id is None else topics.TASK_PROGRESS,
            time=host.clock.now(),
            tenant_id=request.context.tenant_id,
            task_id=task_id,
            agent_id=request.user,
            aggregate_id=aggregate,
            payload=payload,
        )
        try:
            host.emit([event])
        except (
            HostError,
            TooLarge,
        ) as error:  # the call has been made: its reply must not be lost with its row
            logger.warning("a call of %s is not in the ledger: %s", request.user, error)

    return emit


def since(started: float) -> float:
    """Milliseconds since a time of `perf_counter`."""
    return round((time.perf_counter() - started) * 1000, 3)
