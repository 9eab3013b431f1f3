"""The model that accounts for every call: it reserves, settles and records."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from decimal import Decimal
from operator import attrgetter
from typing import Any

from meshwright.core import topics
from meshwright.core.errors import HostError, InvalidInput, MeshError, ModelError, TooLarge
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.core.messages import Usage
from meshwright.core.money import ZERO, reported_cost
from meshwright.engine.kernel.runtime import Runtime
from meshwright.models.errors import ContentRefused, ModelTimeout, PriceUnknown
from meshwright.models.port import (
    STREAM_RESTART,
    Call,
    CostSource,
    Model,
    ModelReply,
    ModelRequest,
    OnCall,
    OnDelta,
    PriceList,
    Settlement,
    Wrapper,
)
from meshwright.models.reading_on import CallGivenUp
from meshwright.models.thinking import Thinking, thinking_callback
from meshwright.models.usage import checked_reply, max_prompt_tokens
from meshwright.money.balance import CallOrigin
from meshwright.money.budgets import SET_PRICE, Budgets
from meshwright.money.estimates import Estimates, PastCalls, estimated_tokens, estimated_usage, text_size
from meshwright.money.holds import Hold

_logger = logging.getLogger("meshwright.ledger")

_MAY_COST = (ModelTimeout, ContentRefused)

"""Failures after which the provider may have worked, and bill for it; the others cost nothing."""

_Lost = tuple[Decimal | None, Usage, CostSource]

_NOTHING: _Lost = (ZERO, Usage(), "priced")


class Accounting(Wrapper):
    """A model whose calls stay within the budgets, and are all in the ledger.

    It reserves the most that a call may cost and settles what it did cost. Only it says that a call was
    made: each is recorded once, however it ends, by its context's `record` or else by `publish`.
    """

    def __init__(
        self,
        model: Model,
        budgets: Budgets,
        prices: PriceList,
        publish: OnCall,
        past: PastCalls | None = None,
    ) -> None:
        super().__init__(model)
        self.budgets = budgets
        self._prices = prices
        self._publish = publish
        self._estimates = Estimates(prices, past)

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Make the call, if the budgets allow it; the reply says what it cost, where that is known.

        If the money left pays only for an answer of the usual length, the answer may have no more; one that
        is cut off by this is made again, with room for all of it, if the budgets allow that. Raises
        BudgetExceeded or PriceUnknown where one does not, and what the model raises.
        """
        limiter: Estimates | None = self._estimates
        while True:
            started = time.perf_counter()
            meter = _StreamMeter(on_delta)
            try:
                hold = await self.budgets.hold(request, self._estimates.upper_bound, limiter)
            except PriceUnknown as error:
                called = self._prices.called_model(request)
                problem = f"The price of model {called!r} is unknown, and budget {error.budget} is hard"
                raise PriceUnknown(problem, remedy=SET_PRICE, budget=error.budget) from None
            try:
                reply = await self.model.complete(hold.request, meter.on_delta)
            except BaseException as error:  # also cancelled: it may have cost something all the same
                if not (isinstance(error, ModelError) and error.retryable):  # else the step is run again
                    self._record_cut(hold, request)
                if call := self._failed(hold, meter, error, _ms_since(started)):
                    self._record(call, request)
                raise
            reply = self._booked(hold, request, reply, meter, started)
            if not hold.is_limited or reply.finish_reason != "length":
                return reply
            limiter = None
            if on_delta is not None:
                on_delta(STREAM_RESTART)

    def _booked(
        self, hold: Hold, request: ModelRequest, reply: ModelReply, meter: _StreamMeter, started: float
    ) -> ModelReply:
        """Settle and record a call that was answered; returns the reply with what it cost."""
        reply = self._priced(reply, hold.request, latency_ms=_ms_since(started))
        self._record_cut(hold, request, reply)
        if not reply.cache_hit:
            self._estimates.note_cost(hold.request, reply.cost_usd)
            if hold.accounts:
                self._estimates.learn(hold.request, reply.usage, reply.cost_usd)
            reply = self._with_lost(reply, hold.request, (*reply.lost, *meter.lost(reply)))
        settled = self.budgets.settle(hold, reply.cost_usd, estimated=reply.cost_source == "estimated")
        self._record(self._answered(hold, reply, settled), request)
        return reply

    async def close(self) -> None:
        """Book what is still to be booked, and close the model."""
        await self.budgets.settled()
        await super().close()

    def _record(self, call: Call, request: ModelRequest) -> None:
        record = request.context.record or self._publish
        record(call)

    def _record_cut(self, hold: Hold, request: ModelRequest, reply: ModelReply | None = None) -> None:
        """Record the calls that earlier processes made for the same step, and did not live to record.

        They asked for the same as now: each counts as what the `reply` cost, more if the provider had cached
        the prompt meanwhile; without a reply as such calls do as a rule.
        """
        take = request.context.take_cut
        count = 0 if take is None else take()
        cut = hold.cut if hold.accounts else ("",) * count
        if not cut:
            return
        if reply is not None:
            cost, usage = self._cost_before(reply, hold.request), reply.usage
        else:
            cost, usage = self._guess(hold.request, _StreamMeter(None).usage(hold.request)), Usage()
        for call_id in cut:
            settled = self.budgets.settle(hold, cost, estimated=True, call=call_id)
            call = Call(
                **_call_fields(hold.request, call_id),
                usage=usage,
                cost_usd=cost if settled is None else settled.amount,
                cost_source="unknown" if cost is None else "estimated",
                outcome="cut",
                settlement=settled,
            )
            self._record(call, request)

    def _cost_before(self, reply: ModelReply, request: ModelRequest) -> Decimal | None:
        """The cost of an equal call before this one, whose reply is lost.

        It may itself have put the prompt into the provider's cache, and have paid all of it. So it counts as
        the dearest of the last such calls, from the cost of the reply to that without a cache.
        """
        cost, usage = reply.saved_usd if reply.cache_hit else reply.cost_usd, reply.usage
        if cost is None or not usage.cached_tokens:
            return cost
        writes = usage.cached_tokens + usage.cache_write_tokens
        usage = usage.model_copy(update={"cached_tokens": 0, "cache_write_tokens": writes})
        uncached = reply.model_copy(update={"usage": usage, "cache_hit": False})
        most = self._prices.reply_cost(uncached, request)
        if most is None:
            return cost
        dearest = self._estimates.dearest(request)
        return max(cost, most if dearest is None else min(most, dearest))

    def _guess(self, request: ModelRequest, usage: Usage) -> Decimal | None:
        """The cost of a call whose end is unknown: that of the dearest of the last such calls, else the most.

        Its provider may have gone on, and bills what it wrote: rather too much is booked than too little.
        """
        most, dearest = self._bound(request, usage), self._estimates.dearest(request)
        if most is None or dearest is None:
            return most
        return min(most, max(dearest, self._estimates.least(request) or ZERO))

    def _priced(self, reply: ModelReply, request: ModelRequest, **overrides: Any) -> ModelReply:
        """The reply with what it cost, as its provider says or else by our prices; `known` is set too.

        Tokens that a provider did not count, or cannot have, are estimated.
        """
        reply = checked_reply(reply, request)
        reported = None if reply.cost_usd is None else reported_cost(reply.cost_usd)
        update: dict[str, Any] = {"cost_usd": reported, **overrides}
        if reply.cache_hit:
            update["cost_usd"] = ZERO
            if reply.saved_usd is None:
                uncached = reply.model_copy(update={"cache_hit": False})
                update["saved_usd"] = self._prices.reply_cost(uncached, request)
        elif reported is not None:
            update |= {"usage": estimated_usage(reply, request)} if reply.usage_problem else {}
        else:
            source = "estimated" if reply.cost_source == "estimated" else "priced"
            if source == "estimated":
                reply = reply.model_copy(update={"usage": estimated_usage(reply, request)})
            cost = self._prices.reply_cost(reply, request)
            update |= {"cost_usd": cost, "cost_source": "unknown" if cost is None else source}
        return reply.model_copy(update=update)

    def _with_lost(
        self, reply: ModelReply, request: ModelRequest, lost_before: Iterable[ModelReply]
    ) -> ModelReply:
        """The reply with the tokens and cost of answers before it that were lost, where we know a price."""
        prompt = reply.usage.prompt_tokens
        for answer in lost_before:
            usage = answer.usage.model_copy(update={"prompt_tokens": answer.usage.prompt_tokens or prompt})
            lost_reply = self._priced(answer.model_copy(update={"usage": usage}), request)
            if reply.cost_usd is None or lost_reply.cost_usd is None:
                continue
            is_estimated = "estimated" in (reply.cost_source, lost_reply.cost_source)
            whole: dict[str, Any] = {
                "usage": reply.usage + lost_reply.usage,
                "cost_usd": reply.cost_usd + lost_reply.cost_usd,
                "cost_source": "estimated" if is_estimated else reply.cost_source,
            }
            reply = reply.model_copy(update=whole)
        return reply.model_copy(update={"lost": ()}) if reply.lost else reply

    def _failed(self, hold: Hold, meter: _StreamMeter, error: BaseException, ms: float) -> Call | None:
        """Settle a call that ended without a reply; None where no provider was asked."""
        cause = error.__cause__ if isinstance(error, asyncio.CancelledError) else None
        if _count_attempts(error) == 0:
            self.budgets.release(hold)
            return None
        cost, usage, source = self._lost(hold, meter, cause or error)
        settled = self.budgets.settle(hold, cost, estimated=source == "estimated")
        failed_at: tuple[str, ...] = error.failed_at if isinstance(error, ModelError) else ()
        failed_with: tuple[str, ...] = error.failed_with if isinstance(error, ModelError) else ()
        return Call(
            **_call_fields(hold.request, hold.call),
            usage=usage,
            cost_usd=cost,
            cost_source=source,
            attempts=_count_attempts(error),
            outcome="cancelled" if isinstance(error, asyncio.CancelledError) else "failed",
            error=error.code if isinstance(error, MeshError) else type(error).__name__,
            reason=error.message if isinstance(error, ModelError) else None,  # others may hold a key
            latency_ms=ms,
            deployment=failed_at[-1] if failed_at else None,
            failed_at=failed_at,
            failed_with=failed_with,
            settlement=settled,
        )

    def _answered(self, hold: Hold, reply: ModelReply, settled: Settlement | None) -> Call:
        fields = dict(zip(_OF_REPLY, _of_reply(reply), strict=True))
        tools = tuple([call.name for call in reply.tool_calls])
        fields |= {"tool_calls": tools, "settlement": settled, "reason": reply.usage_problem or None}
        return Call(**_call_fields(hold.request, hold.call), **fields)

    def _lost(self, hold: Hold, meter: _StreamMeter, error: BaseException) -> _Lost:
        """The likely cost and usage of a call that ended without a reply.

        Answers that were held back say it, where the provider counted. Streamed text is counted; without any,
        if the provider may have worked, it is the estimate of such calls, else the most. A call that its
        caller gave up costs what its reply says; without one the most.
        """
        lost_replies: tuple[ModelReply, ...] = getattr(error, "lost", ())
        if isinstance(error, CallGivenUp) and not lost_replies:
            return self._estimated(hold.request, _StreamMeter(None).usage(hold.request), is_bound=True)
        harmless = isinstance(error, ModelError | InvalidInput | CallGivenUp)
        harmless = harmless and not isinstance(error, _MAY_COST)
        is_known = (harmless or isinstance(error, ContentRefused)) and meter.streams <= len(lost_replies)
        is_counted = all(answer.cost_source != "estimated" for answer in lost_replies)
        if lost_replies and is_known and (is_counted or (harmless and not meter.bytes)):
            *before, last = lost_replies
            reply = self._with_lost(self._priced(last, hold.request), hold.request, before)
            return reply.cost_usd, reply.usage, reply.cost_source
        if _count_attempts(error) == 0 or (harmless and not meter.bytes):
            return _NOTHING
        usage = meter.usage(hold.request)
        return self._estimated(hold.request, usage, is_bound=meter.bytes > 0)

    def _estimated(self, request: ModelRequest, usage: Usage, *, is_bound: bool) -> _Lost:
        cost = self._bound(request, usage) if is_bound else self._guess(request, usage)
        return cost, usage, "unknown" if cost is None else "estimated" if cost else "priced"

    def _bound(self, request: ModelRequest, usage: Usage) -> Decimal | None:
        price = self._prices.upper_bound(request, usage.prompt_tokens)
        return None if price is None else price.cost(usage.prompt_tokens, usage.completion_tokens)


def call_events(runtime: Runtime) -> OnCall:
    """Returns what publishes calls that no journal records, on the bus of a runtime."""

    def publish(call: Call) -> None:
        """Publish `model.called`; the id of the event ends with the id of the call."""
        aggregate, payload = f"mesh/{runtime.incarnation}", call.payload()
        event = Event(
            id=f"{aggregate}/{call.call_id}",
            event_type=payload.event_type,
            topic=topics.MESH,
            time=runtime.clock.now(),
            tenant_id=call.tenant_id or "default",
            agent_id=call.user,
            aggregate_id=aggregate,
            payload=payload,
        )
        try:
            runtime.emit([event])
        except (HostError, TooLarge) as error:  # the call was made: its reply must not be lost with its row
            _logger.warning("A call of %s is not in the ledger: %s", call.user, error)

    return publish


_OF_REPLY = (
    *("model", "deployment", "usage", "cost_usd", "cost_source", "cache_hit", "saved_usd", "attempts"),
    *("latency_ms", "finish_reason", "failed_at", "failed_with"),
)

_of_reply = attrgetter(*_OF_REPLY)


def _call_fields(request: ModelRequest, call_id: str = "") -> dict[str, Any]:
    fields = {"call_id": call_id or new_id(), **CallOrigin.from_request(request).call_fields()}
    fields["prompt"], fields["passed_over"] = request.context.prompt, request.context.passed_over
    return fields


def _count_attempts(error: BaseException) -> int:
    """How many attempts were made; none where a call was cancelled because of an error that says so."""
    cause = error.__cause__ if isinstance(error, asyncio.CancelledError) else error
    return cause.attempts if isinstance(cause, ModelError) else 1


def _ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)


class _StreamMeter:
    """Passes on the pieces of a streamed answer, and counts them: `on_delta` is what takes them."""

    def __init__(self, on_delta: OnDelta | None) -> None:
        self._attempts = [0]  # the bytes of each
        self._thinking_bytes = 0
        self._pass_on = on_delta
        self._pass_on_thinking = thinking_callback(on_delta)

    @property
    def bytes(self) -> int:
        return sum(self._attempts)

    @property
    def streams(self) -> int:
        return sum(size > 0 for size in self._attempts)

    @property
    def on_delta(self) -> OnDelta | None:
        return self if self._pass_on is not None else None

    def usage(self, request: ModelRequest) -> Usage:
        """A bound on the tokens that were read and written, those of attempts before the last included."""
        limit = request.output_limit
        # No attempt writes more than it was allowed, whatever a server sends.
        shown = sum(min(size, limit) for size in self._attempts)
        written = min(shown + self._thinking_bytes, max(self.streams, 1) * limit)
        return Usage(
            prompt_tokens=len(self._attempts) * max_prompt_tokens(request),
            completion_tokens=written if self.bytes else limit,
        )

    def lost(self, reply: ModelReply) -> list[ModelReply]:
        """The streams that broke off before a reply, but for those that it knows of itself."""
        cut = [size for size in self._attempts[:-1] if size][len(reply.lost) :]
        uncounted = {"cost_usd": None, "cost_source": "estimated", "lost": ()}
        return [
            reply.model_copy(update={**uncounted, "usage": Usage(completion_tokens=estimated_tokens(size))})
            for size in cut
        ]

    def thinking(self, piece: Thinking) -> None:
        self._thinking_bytes += text_size(piece.text)  # a bound only once text comes: what is shown is a part
        if self._pass_on_thinking is not None:
            self._pass_on_thinking(piece)

    def __call__(self, text: str) -> None:
        assert self._pass_on is not None
        if text == STREAM_RESTART:
            self._attempts.append(0)
        self._attempts[-1] += text_size(text)
        self._pass_on(text)
