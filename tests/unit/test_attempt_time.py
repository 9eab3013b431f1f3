"""What of an attempt's time a call of a model may take."""

import pytest

from meshwright.run.attempt_time import AttemptTime


@pytest.mark.parametrize(
    ("timeout", "used", "seconds"),
    [(120.0, 0.0, 119.0), (120.0, 60.0, 59.0), (120.0, 106.0, 13.0), (1.0, 0.0, 0.8), (1.0, 0.5, 0.3)],
)
def test_a_call_ends_before_its_attempt_does(timeout: float, used: float, seconds: float) -> None:
    assert AttemptTime(timeout, used).call_seconds == pytest.approx(seconds, abs=0.02)


@pytest.mark.parametrize(("timeout", "used"), [(120.0, 107.5), (120.0, 130.0), (1.0, 0.75)])
def test_a_run_that_was_slow_itself_has_its_attempt_ended_in_the_call(timeout: float, used: float) -> None:
    assert AttemptTime(timeout, used).call_seconds == timeout  # longer than what is left
