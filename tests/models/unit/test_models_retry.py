"""Retries of model calls, on a clock that is moved by hand."""

import asyncio
from collections.abc import Callable

import pytest

from meshwright.core.errors import ModelError
from meshwright.models.circuits import Retrying
from meshwright.models.errors import ModelRefused, ModelUnavailable, RateLimited
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest, OnDelta
from meshwright.testing.mesh import ManualClock

DOWN = ModelUnavailable("down")


class Flaky:
    """A model that raises the errors that it is given, one a call, and then answers."""

    name = "flaky"

    def __init__(self, clock: ManualClock, *errors: Exception) -> None:
        self.clock = clock
        self.errors = list(errors)
        self.calls: list[tuple[float, ModelRequest]] = []
        self.attempts = 1
        self.closed = False
        self.begun = clock.now()

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        self.calls.append(((self.clock.now() - self.begun).total_seconds(), request))
        if self.errors:
            raise self.errors.pop(0)
        return ModelReply(content="at last", model="flaky", attempts=self.attempts)

    async def close(self) -> None:
        self.closed = True

    @property
    def times(self) -> list[float]:
        return [seconds for seconds, _ in self.calls]


def request(timeout_seconds: float = 60.0) -> ModelRequest:
    messages = (ChatMessage(role="user", content="Hello"),)
    return ModelRequest(messages=messages, user="tester", timeout_seconds=timeout_seconds)


def retrying(model: Flaky, draw: Callable[[], float] = lambda: 1.0) -> Retrying:
    return Retrying(model, model.clock, backoff_seconds=1.0, max_backoff_seconds=8.0, draw=draw)


async def outcome(
    model: Retrying, clock: ManualClock, timeout_seconds: float = 60.0
) -> ModelReply | Exception:
    call = asyncio.create_task(model.complete(request(timeout_seconds)))
    await clock.advance(100)
    (result,) = await asyncio.gather(call, return_exceptions=True)
    assert not isinstance(result, BaseException) or isinstance(result, Exception)
    return result


async def test_a_retryable_error_is_tried_again_after_a_growing_wait(clock: ManualClock) -> None:
    model = Flaky(clock, DOWN, DOWN)
    reply = await outcome(retrying(model), clock)
    assert isinstance(reply, ModelReply) and reply.content == "at last"
    assert model.times == [0.0, 1.0, 3.0]


async def test_a_wait_is_a_random_part_of_the_backoff(clock: ManualClock) -> None:
    draws = iter([0.25, 0.0])
    model = Flaky(clock, DOWN, DOWN)
    await outcome(retrying(model, lambda: next(draws)), clock)
    assert model.times == [0.0, 0.25, 0.25]


async def test_after_the_third_try_the_last_error_is_raised(clock: ManualClock) -> None:
    errors = [ModelUnavailable(name) for name in ("first", "second", "third", "fourth")]
    model = Flaky(clock, *errors)
    assert await outcome(retrying(model), clock) is errors[2]
    assert len(model.calls) == 3


@pytest.mark.parametrize("error", [ModelRefused("no"), ModelError("too large"), RuntimeError("a bug")])
async def test_an_error_that_would_come_again_is_raised_at_once(clock: ManualClock, error: Exception) -> None:
    model = Flaky(clock, error)
    assert await outcome(retrying(model), clock) is error
    assert len(model.calls) == 1


async def test_a_provider_that_asks_for_a_wait_gets_it(clock: ManualClock) -> None:
    model = Flaky(clock, RateLimited("wait", retry_after_seconds=20.0))
    await outcome(retrying(model), clock)
    assert model.times == [0.0, 20.0]


async def test_a_wait_longer_than_a_call_may_wait_is_not_begun(clock: ManualClock) -> None:
    error = RateLimited("wait", retry_after_seconds=20.0)
    model = Flaky(clock, error)
    assert await outcome(Retrying(model, clock, max_wait_seconds=10.0), clock) is error
    assert len(model.calls) == 1


async def test_a_wait_beyond_the_deadline_is_not_begun(clock: ManualClock) -> None:
    error = RateLimited("wait", retry_after_seconds=20.0)
    model = Flaky(clock, error)
    assert await outcome(retrying(model), clock, timeout_seconds=20.0) is error
    assert len(model.calls) == 1


async def test_each_try_gets_only_the_time_that_is_left(clock: ManualClock) -> None:
    model = Flaky(clock, DOWN, DOWN)
    await outcome(retrying(model), clock, timeout_seconds=10.0)
    assert [call.timeout_seconds for _, call in model.calls] == [10.0, 9.0, 7.0]


async def test_each_retry_is_told_with_its_reason_and_wait(clock: ManualClock) -> None:
    told: list[tuple[str, ModelError, float]] = []
    model = Flaky(clock, DOWN)
    retries = Retrying(
        model,
        clock,
        backoff_seconds=1.0,
        draw=lambda: 1.0,
        on_retry=lambda request, error, seconds: told.append((request.user, error, seconds)),
    )
    await outcome(retries, clock)
    assert told == [("tester", DOWN, 1.0)]


def failed_after(attempts: int) -> ModelUnavailable:
    error = ModelUnavailable("down, and its fallbacks too")
    error.attempts = attempts
    return error


async def test_attempts_of_all_tries_are_counted_those_of_an_adapter_too(clock: ManualClock) -> None:
    model = Flaky(clock, failed_after(3), DOWN)
    model.attempts = 2
    reply = await outcome(retrying(model), clock)
    assert isinstance(reply, ModelReply) and reply.attempts == 3 + 1 + 2


async def test_the_last_error_counts_the_attempts_of_those_before_it(clock: ManualClock) -> None:
    error = await outcome(retrying(Flaky(clock, failed_after(3), DOWN, failed_after(2))), clock)
    assert isinstance(error, ModelError) and error.attempts == 3 + 1 + 2


async def test_cancelling_during_a_wait_ends_it(clock: ManualClock) -> None:
    model = Flaky(clock, DOWN)
    call = asyncio.create_task(retrying(model).complete(request()))
    await clock.advance(0.5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await clock.advance(100)
    assert len(model.calls) == 1


async def test_it_goes_by_the_name_of_its_model_and_closes_it(clock: ManualClock) -> None:
    model = Flaky(clock)
    retries = retrying(model)
    await retries.close()
    assert (retries.name, model.closed) == ("flaky", True)
