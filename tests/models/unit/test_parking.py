"""When a run whose provider is away tries again."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from meshwright.agents.run.limits import Parking, tries_again_at
from meshwright.core.errors import ModelError
from meshwright.models.errors import (
    BudgetExceeded,
    ContentRefused,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    Unauthorized,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TOMORROW = NOW + timedelta(days=1)
DOWN = ModelUnavailable("It is away")


def pause(parking: Parking, pauses: int, error: ModelError = DOWN) -> float:
    due_at = parking.due_at(error, NOW, pauses, TOMORROW)
    assert due_at is not None
    return (due_at - NOW).total_seconds()


def test_pauses_double_up_to_the_longest() -> None:
    parking = Parking(5.0, 120.0, jitter=0)
    assert [pause(parking, pauses) for pauses in (0, 1, 2, 3, 4, 5, 500)] == [5, 10, 20, 40, 80, 120, 120]


def test_a_pause_is_a_random_half_to_whole() -> None:
    pauses = {pause(Parking(8.0, 120.0), 0) for _ in range(50)}
    assert len(pauses) > 40
    assert all(4 <= seconds <= 8 for seconds in pauses)


def test_runs_that_a_provider_sends_away_come_back_later_and_not_together() -> None:
    error = RateLimited("wait", retry_after_seconds=30.0)
    pauses = {pause(Parking(8.0, 120.0), 0, error) for _ in range(50)}
    assert len(pauses) > 40
    assert all(34 <= seconds <= 38 for seconds in pauses)


def test_nothing_waits_beyond_its_deadline() -> None:
    assert Parking(8.0, 120.0, jitter=0).due_at(DOWN, NOW, 0, NOW + timedelta(seconds=8)) is None


def test_a_model_that_is_only_slow_is_not_paid_for_ever() -> None:
    slow = ModelTimeout("No answer in 30 seconds")
    assert [Parking().due_at(slow, NOW, pauses, TOMORROW) is None for pauses in (0, 4, 5)] == [
        False,
        False,
        True,
    ]


REFUSALS = [(Unauthorized, 401), (ModelRefused, 402), (Unauthorized, 403), (ModelRefused, 404)]


@pytest.mark.parametrize(("kind", "status"), REFUSALS)
def test_a_refused_key_credit_or_model_is_waited_for(kind: type[ModelError], status: int) -> None:
    error = kind("refused", retry_after_seconds=5.0)
    error.answered = status
    assert pause(Parking(8.0, 120.0, jitter=0), 0, error) == 13


@pytest.mark.parametrize(
    ("kind", "status"), [(ModelRefused, 400), (ContentRefused, 403), (Unauthorized, None)]
)
def test_nothing_waits_for_what_no_provider_would_take(kind: type[ModelError], status: int | None) -> None:
    error = kind("no")
    error.answered = status
    assert Parking().due_at(error, NOW, 0, TOMORROW) is None


def test_a_provider_that_sends_nothing_of_a_stream_is_away_for_as_long_as_it_takes() -> None:
    silent = ModelTimeout("No answer in 30 seconds")
    silent.is_silent = True
    assert Parking().due_at(silent, NOW, 500, TOMORROW) is not None


@pytest.mark.parametrize("priority", [1, 5, 10])
def test_no_run_tries_for_money_between_a_renewal_and_the_turn_of_its_priority(priority: int) -> None:
    error = BudgetExceeded("The day's money is spent", on_empty="wait")
    error.retry_after_seconds = renews = 13.0
    turn = renews + (10 - priority) / 2
    tries = [tries_again_at(error, NOW, 1, priority) for _ in range(200)]
    pauses = [(due_at - NOW).total_seconds() for due_at in tries if due_at is not None]
    assert len(pauses) == 200
    assert all(turn <= pause <= turn + 0.5 for pause in pauses)


@pytest.mark.parametrize(("on_empty", "renews"), [("wait", 30 * 86_400.0), ("ask", None)])
def test_a_run_does_not_look_again_and_again_for_money(on_empty: Any, renews: float | None) -> None:
    error = BudgetExceeded("The month's money is spent", on_empty=on_empty)
    error.retry_after_seconds = renews
    first, *tries = [tries_again_at(error, NOW, pauses, 5) for pauses in range(10)]
    assert first is not None and first - NOW >= timedelta(minutes=1)
    assert all(due_at is not None and due_at - NOW >= timedelta(hours=4) for due_at in tries)
