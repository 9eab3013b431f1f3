"""The one owner of retries of model calls: no adapter below it retries."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from meshwright.core.clock import Clock
from meshwright.core.errors import ModelError
from meshwright.models.port import STREAM_RESTART, Model, ModelReply, ModelRequest, OnDelta

MAX_TRIES = 3
_BACKOFF_SECONDS = 0.5
_MAX_BACKOFF_SECONDS = 8.0
MAX_WAIT_SECONDS = 10.0
"""A run that can wait without a slot does not wait longer within a call."""


_OnRetry = Callable[[ModelRequest, ModelError, float], None]
"""Takes a request that is retried, the error of the last try, and the seconds until the next."""


class Retrying:
    """A model that tries again after errors that are retryable, at most `max_tries` times in all.

    Waits a random part of a doubling backoff (full jitter), and never less than a provider asked for. All
    tries and waits together stay within the request's `timeout_seconds`: a wait that would end after it is
    not begun, the error is raised at once; the same for a wait of more than `max_wait_seconds`. `on_retry` is
    called before each wait. `tries_of` has the number for some of the agents (a request's `user`).
    """

    def __init__(
        self,
        model: Model,
        clock: Clock,
        *,
        max_tries: int = MAX_TRIES,
        backoff_seconds: float = _BACKOFF_SECONDS,
        max_backoff_seconds: float = _MAX_BACKOFF_SECONDS,
        max_wait_seconds: float | None = None,
        draw: Callable[[], float] = random.random,
        on_retry: _OnRetry | None = None,
        tries_of: Mapping[str, int] | None = None,
    ) -> None:
        self.name = model.name
        self.model = model
        self.clock = clock
        self.max_tries = max_tries
        self.backoff_seconds = backoff_seconds
        self.max_backoff_seconds = max_backoff_seconds
        self.max_wait_seconds = max_wait_seconds
        self.draw = draw
        self.on_retry = on_retry
        self.tries_of = tries_of or {}

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Make up to `max_tries` tries. Raises the last one's ModelError.

        Reply and error count the attempts of all tries, and have the lost answers of all: one of an adapter
        with fallbacks may be several.
        """
        ends = self.clock.now() + timedelta(seconds=request.timeout_seconds)
        attempt, made = request, 0
        lost: tuple[ModelReply, ...] = ()
        for tries in itertools.count(1):
            try:
                reply = await self.model.complete(attempt, on_delta)
            except ModelError as error:
                made += error.attempts
                error.lost = lost = (*lost, *error.lost)
                left_tries = self.tries_of.get(request.user, self.max_tries) - tries
                wakes = self._wake_after(error, tries, made, ends, is_last=left_tries <= 0)
                if self.on_retry is not None:
                    self.on_retry(request, error, (wakes - self.clock.now()).total_seconds())
            else:
                if not made:
                    return reply
                all_tries = {
                    "attempts": made + reply.attempts,
                    "lost": (*lost, *reply.lost),
                }
                return reply.model_copy(update=all_tries)
            await self.clock.sleep_until(wakes)
            if on_delta is not None:
                on_delta(STREAM_RESTART)
            left = (ends - self.clock.now()).total_seconds()
            attempt = request.model_copy(update={"timeout_seconds": left})
        raise AssertionError("the count has no end")

    async def close(self) -> None:
        """Close the model."""
        await self.model.close()

    def _wake_after(
        self, error: ModelError, tries: int, made: int, ends: datetime, *, is_last: bool
    ) -> datetime:
        """When to try again; raises the error where another try makes no sense."""
        ceiling = min(self.max_backoff_seconds, self.backoff_seconds * 2 ** (tries - 1))
        delay_seconds = max(self.draw() * ceiling, error.retry_after_seconds or 0.0)
        wakes = self.clock.now() + timedelta(seconds=delay_seconds)
        is_long = self.max_wait_seconds is not None and delay_seconds > self.max_wait_seconds
        if is_last or not error.retryable or wakes >= ends or is_long:
            error.attempts = made
            raise error
        return wakes
