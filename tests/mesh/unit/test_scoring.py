"""The score is the product of its factors, and each factor is what it says."""

import pytest

from meshwright.core.capability import Capability
from meshwright.mesh.orchestration.scoring import OutcomeHistory, score_card


def score(*outcomes: bool, weight: float = 1.0, preferred: bool = False, healthy: bool = True) -> float:
    capability = Capability("research", weight=weight, preferred=preferred)
    return score_card("agent", capability, healthy=healthy, history=OutcomeHistory(outcomes)).score


def test_no_history_counts_as_success():
    assert score(weight=0.8) == 0.8


def test_a_preferred_capability_counts_five_percent_more():
    assert score(preferred=True) == 1.05


def test_an_unhealthy_agent_scores_nothing():
    assert score(True, True, True, healthy=False, preferred=True) == 0


def test_three_successes_in_a_row_count_ten_percent_more():
    assert score(True, True) == 1.0
    assert score(True, True, True) == 1.1
    assert score(True, True, True, preferred=True) == 1.155


def test_a_streak_needs_the_last_three():
    card = score_card(
        "agent", Capability("x"), healthy=True, history=OutcomeHistory([True, True, True, False])
    )
    assert card.streak == 1.0


def test_newer_outcomes_count_more():
    assert score(False, True) == pytest.approx(1 / (1 + 0.95), abs=1e-6)
    assert score(True, False) == pytest.approx(0.95 / (1 + 0.95), abs=1e-6)


def test_all_failures_score_nothing():
    assert score(False, False) == 0


def test_only_the_last_twenty_outcomes_count():
    assert score(*[False] * 5, *[True] * 20) == 1.1


def test_an_outcome_kept_up_to_date_equals_the_formula(rng):
    outcomes = [rng.random() < 0.6 for _ in range(300)]
    history = OutcomeHistory()
    for count, outcome in enumerate(outcomes, start=1):
        history.add(outcome)
        last = outcomes[max(0, count - 20) : count][::-1]
        decays = [0.95**age for age in range(len(last))]
        expected = sum(decay for decay, success in zip(decays, last, strict=True) if success) / sum(decays)
        assert history.success == pytest.approx(expected)
        assert history.streak == (1.1 if last[:3] == [True] * 3 else 1.0)


def test_the_card_shows_every_factor():
    card = score_card(
        "agent", Capability("x", weight=0.9, preferred=True), healthy=True, history=OutcomeHistory([True] * 3)
    )
    assert card.model_dump() == {
        "agent_id": "agent",
        "capability": "x",
        "score": 1.0395,
        "weight": 0.9,
        "health": 1.0,
        "success": 1.0,
        "streak": 1.1,
        "preferred": 1.05,
    }
