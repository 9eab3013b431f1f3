"""The statistics of experiments: known values, no false alarms however often they are looked at, power."""

import random
from collections.abc import Callable
from statistics import NormalDist, fmean, variance

import pytest

from meshwright.core.ids import new_id
from meshwright.parts.experiments.records import ExperimentGuard, ExperimentRequest
from meshwright.parts.experiments.results import (
    ALPHA,
    MIN_COUNT,
    Measurements,
    Sample,
    bounds,
    breach,
    compare,
    mean_interval,
    needed,
    results,
    wilson,
)
from meshwright.parts.experiments.table import ExperimentRow
from tests.conftest import DEFAULT_SEED

SIMULATIONS, MOST, EVERY = 1_000, 400, 10
TRIALS, ENOUGH = 20, 19


def sample_of(values: list[float]) -> Sample:
    return Sample.from_sums(len(values), fmean(values), fmean(value * value for value in values))


def is_naive_alarm(first: Sample, second: Sample) -> bool:
    """Whether a usual test, which is meant to be looked at once, finds a difference."""
    error = first.variance / first.count + second.variance / second.count
    return bool(error) and abs(first.mean - second.mean) / error**0.5 >= NormalDist().inv_cdf(1 - ALPHA / 2)


def test_intervals_and_p_values_are_those_of_scipy_and_statsmodels() -> None:
    chance = random.Random(7)
    one = [chance.gauss(1, 2) for _ in range(60)]
    assert sample_of(one).variance == pytest.approx(variance(one))
    assert wilson(48, 60) == pytest.approx((0.682181941943, 0.881714946771), abs=1e-12)
    interval = mean_interval(sample_of([1.0, 2.0, 3.0, 4.0, 5.0]))  # t of 4 degrees is 2.776445105198
    assert interval == pytest.approx((3 - 2.776445105198 * 0.5**0.5, 3 + 2.776445105198 * 0.5**0.5))


def test_edges_of_samples_have_intervals_too() -> None:
    assert wilson(0, 20)[0] == 0 and wilson(20, 20)[1] == pytest.approx(1)
    assert mean_interval(Sample(1, 3.0, 0.0)) == (3.0, 3.0)
    same = Sample.from_sums(30, 0.1, 0.1 * 0.1)
    assert same.variance == 0
    assert compare(same, same) == (0, 0, 0, 1)
    apart = compare(same, same._replace(mean=0.2))
    assert apart is not None and (apart.p_value, apart.low) == (0, 0.1)
    assert compare(same, same._replace(count=MIN_COUNT - 1)) is None and bounds(Sample(5, 1, 1)) is None
    assert needed(0, 0.1) == MIN_COUNT


def test_the_p_value_is_alpha_where_the_interval_begins_at_nothing() -> None:
    first = Sample(100, 0.0, 1.0)
    found = compare(first, first)
    assert found is not None and found.p_value == 1
    edge = compare(first, first._replace(mean=found.high))
    assert edge is not None and edge.p_value == pytest.approx(ALPHA) and edge.low == pytest.approx(0)


def shares(chance: random.Random, share: float) -> Callable[[], float]:
    return lambda: float(chance.random() < share)


def costs(chance: random.Random) -> Callable[[], float]:
    return lambda: chance.lognormvariate(0, 1)


@pytest.mark.parametrize("kind", ["half", "most", "nearly all", "costs"])
def test_equal_variants_are_found_different_in_at_most_five_percent_however_often_looked_at(
    kind: str,
) -> None:
    chance, alarms, naive = random.Random(DEFAULT_SEED), 0, 0
    shown = {"half": 0.5, "most": 0.8, "nearly all": 0.97}
    draw = costs(chance) if kind == "costs" else shares(chance, shown[kind])
    for _ in range(SIMULATIONS):
        sums, has_alarm, has_naive = [0.0, 0.0, 0.0, 0.0], False, False
        for count in range(EVERY, MOST + 1, EVERY):
            for arm in (0, 2):
                values = [draw() for _ in range(EVERY)]
                sums[arm] += sum(values)
                sums[arm + 1] += sum(value * value for value in values)
            means = [total / count for total in sums]
            if kind == "costs":
                pair = [Sample.from_sums(count, means[arm], means[arm + 1]) for arm in (0, 2)]
            else:
                pair = [Sample.from_share(count, means[arm]) for arm in (0, 2)]
            found = compare(*pair)
            has_alarm |= found is not None and found.p_value <= ALPHA
            has_naive |= count >= MIN_COUNT and count % 40 == 0 and is_naive_alarm(*pair)
        alarms, naive = alarms + has_alarm, naive + has_naive
    assert alarms <= ALPHA * SIMULATIONS
    assert naive > 2 * ALPHA * SIMULATIONS  # the test that is only right once


def row_of(**fields: object) -> ExperimentRow:
    variants = [{"name": "before"}, {"name": "after", "version": 2}]
    wanted = ExperimentRequest.model_validate(
        {"name": "x", "agent_id": "greeter", "variants": variants, **fields}
    )
    return ExperimentRow(
        experiment_id=new_id(),
        tenant_id="default",
        agent_id="greeter",
        status="running",
        runs_over="tasks",
        salt="s",
        spec=wanted.model_dump_json(),
        state='{"created_at": "2026-11-23T00:00:00Z", "created_by": "ada"}',
    )


def run_as_said(row: ExperimentRow, chance: random.Random, rates: tuple[float, float]) -> str | None:
    """Run 50 tasks of each variant, and then as many more as the results say; returns the verdict."""
    done, successes, most = 0, [0, 0], 50
    while True:
        while done < most:
            done += 1
            successes = [
                count + (chance.random() < rate) for count, rate in zip(successes, rates, strict=True)
            ]
            if done % 10 and done < most:
                continue
            samples = [Sample.from_share(done, count / done) for count in successes]
            found = results(
                row, Measurements({("success", "before"): samples[0], ("success", "after"): samples[1]}, {})
            )
            if found.variants[1].verdict in ("better", "worse"):
                return found.variants[1].verdict
        missing = found.variants[1].missing
        assert missing is not None
        if most > 50 or not missing:
            return found.variants[1].verdict
        most += missing


def test_a_worse_prompt_is_found_with_the_tasks_that_results_say_are_missing() -> None:
    row, chance = row_of(minimum_difference=0.15), random.Random(DEFAULT_SEED)
    worse = [run_as_said(row, chance, (0.9, 0.75)) for _ in range(TRIALS)]
    assert worse.count("worse") >= ENOUGH, worse
    equal = [run_as_said(row, chance, (0.9, 0.9)) for _ in range(TRIALS)]
    assert sum(verdict in ("better", "worse") for verdict in equal) <= TRIALS - ENOUGH, equal


def measured(**samples: Sample) -> Measurements:
    return Measurements({("success", name): sample for name, sample in samples.items()}, {})


@pytest.mark.parametrize(
    ("guard", "share", "count", "reason"),
    [
        (ExperimentGuard(worse_by=0.1), 0.5, 100, "success of after is worse by"),
        (ExperimentGuard(worse_by=0.1), 0.5, 10, None),  # too few
        (ExperimentGuard(worse_by=0.1), 0.85, 100, None),
        (ExperimentGuard(bound=0.8), 0.5, 100, "success of after is 0.5, surely below 0.8"),
        (ExperimentGuard(bound=0.8), 0.75, 100, None),
        (ExperimentGuard(worse_by=0), 1.0, 100, None),  # better
        (None, 0.1, 1000, None),
    ],
)
def test_a_guard_acts_on_what_is_sure(
    guard: ExperimentGuard | None, share: float, count: int, reason: str | None
) -> None:
    wanted = row_of(guard=guard).request
    found = breach(
        wanted, measured(before=Sample.from_share(count, 0.9), after=Sample.from_share(count, share))
    )
    assert (found is None) == (reason is None)
    assert found is None or (found.variant, found.reason.startswith(reason or "")) == ("after", True)


def test_more_of_a_cost_is_worse() -> None:
    row = row_of(
        metric="cost_usd", minimum_difference=0.01, guard=ExperimentGuard(metric="cost_usd", worse_by=0.02)
    )
    cheap, dear = Sample(200, 0.01, 1e-5), Sample(200, 0.05, 1e-5)
    found = Measurements({("cost_usd", "before"): cheap, ("cost_usd", "after"): dear}, {})
    assert results(row, found).variants[1].verdict == "worse"
    assert breach(row.request, found) is not None
    found = Measurements({("cost_usd", "before"): dear, ("cost_usd", "after"): cheap}, {})
    assert results(row, found).variants[1].verdict == "better" and breach(row.request, found) is None
    found = Measurements({("cost_usd", "before"): cheap, ("cost_usd", "after"): cheap}, {})
    assert results(row, found).variants[1].verdict == "same"
