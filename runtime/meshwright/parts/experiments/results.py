"""The results of experiments: metrics per variant with their intervals, verdicts, and what guards find.

Intervals, differences and p-values hold however often you look.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

from meshwright.kit import Session, from_pico
from meshwright.parts.experiments.records import (
    LOWER_IS_BETTER,
    METRICS,
    SUCCESS,
    ExperimentFigures,
    ExperimentGuard,
    ExperimentRequest,
    ExperimentResults,
    VariantResult,
)
from meshwright.parts.experiments.table import ExperimentRow

_MILLION = 1_000_000  # picodollars are added up in two parts, since SQLite's sum of them may not hold
_COLUMN = {
    SUCCESS: "success",
    "retries": "retries",
    "model_calls": "model_calls",
    "tokens": "tokens",
    "cost_usd": "cost_pico / 1e12",
    "duration_seconds": "duration_ms / 1e3",
    "approvals_denied": "denials",
}
_MEANS = ", ".join(
    f"avg(CAST({column} AS DOUBLE PRECISION)) AS m{n}" for n, column in enumerate(_COLUMN.values())
)
_SUMS = ", ".join(f"count(m{n}), avg(m{n}), avg(m{n} * m{n})" for n in range(len(_COLUMN)))
_TASKS = (
    f"SELECT variant, {_SUMS} FROM (SELECT variant, unit, {_MEANS} FROM experiment_tasks "  # noqa: S608
    "WHERE experiment_id = ? AND ended = 1 GROUP BY variant, unit) AS units GROUP BY variant"
)
_SCORES = (
    "SELECT variant, name, count(*), avg(score), avg(score * score) FROM "
    "(SELECT tasks.variant, tasks.unit, scores.name, avg(scores.value) AS score "
    "FROM experiment_tasks AS tasks JOIN experiment_scores AS scores "
    "ON scores.tenant_id = tasks.tenant_id AND scores.task_id = tasks.task_id "
    "WHERE tasks.experiment_id = ? AND tasks.ended = 1 GROUP BY tasks.variant, tasks.unit, scores.name) "
    "AS units GROUP BY variant, name ORDER BY name"
)
_COUNTS = (
    "SELECT variant, sum(ended), sum(1 - ended), "  # noqa: S608
    f"sum(CASE WHEN ended = 1 AND cost_pico IS NULL THEN 1 ELSE 0 END), "
    f"coalesce(sum(cost_pico / {_MILLION}), 0), coalesce(sum(cost_pico % {_MILLION}), 0) "
    "FROM experiment_tasks WHERE experiment_id = ? GROUP BY variant"
)
Verdict = Literal["better", "worse", "same"]


class Counts(NamedTuple):
    """The tasks of a variant, and what they have cost in picodollars."""

    ended_count: int = 0
    open: int = 0
    unpriced: int = 0
    cost_pico: int = 0


class Measurements(NamedTuple):
    """The measurements of an experiment: samples by metric and variant, and counts by variant."""

    samples: Mapping[tuple[str, str], Sample]
    counts: Mapping[str, Counts]


class Breach(NamedTuple):
    """A variant that a guard has found too bad."""

    variant: str
    metric: str
    reason: str


def measure(session: Session, experiment_id: str) -> Measurements:
    """Read what the tasks of an experiment have come to. Tasks of one unit are one observation."""
    samples: dict[tuple[str, str], Sample] = {}
    for variant, *values in session.execute(_TASKS, (experiment_id,)).fetchall():
        for place, metric in enumerate(_COLUMN):
            count, *moments = values[3 * place : 3 * place + 3]
            if count:
                samples[metric, variant] = _sample(metric, count, *moments)
    for variant, name, *values in session.execute(_SCORES, (experiment_id,)).fetchall():
        if name not in METRICS:
            samples[name, variant] = _sample(name, *values)
    counts = {
        variant: Counts(int(ended_count), int(unended), int(unpriced), int(millions) * _MILLION + int(rest))
        for variant, ended_count, unended, unpriced, millions, rest in session.execute(
            _COUNTS, (experiment_id,)
        ).fetchall()
    }
    return Measurements(samples, counts)


def _sample(metric: str, count: int, mean: float, mean_square: float) -> Sample:
    of = Sample.from_share(count, mean) if metric == SUCCESS else Sample.from_sums(count, mean, mean_square)
    return of._replace(count=int(count))


def results(row: ExperimentRow, measured: Measurements) -> ExperimentResults:
    """The results of an experiment."""
    request = row.request
    names = [variant.name for variant in request.variants]
    scores = sorted({metric for metric, _ in measured.samples} - {*METRICS})
    metrics = dict.fromkeys((request.metric, *METRICS, *scores))
    figures = [
        _figures(
            metric, name, measured.samples[metric, name], measured.samples.get((metric, names[0])), names
        )
        for metric in metrics
        for name in names
        if (metric, name) in measured.samples
    ]
    variants = [_result(request, name, measured) for name in names]
    return ExperimentResults(experiment=row.view, variants=variants, figures=figures)


def _alpha(variants: Sequence[Any]) -> float:
    """The chance of a false alarm in one comparison, where there are several."""
    return ALPHA / (len(variants) - 1)


def _figures(
    metric: str, name: str, sample: Sample, first: Sample | None, variants: Sequence[str]
) -> ExperimentFigures:
    own = wilson(sample.mean * sample.count, sample.count) if metric == SUCCESS else mean_interval(sample)
    figures = ExperimentFigures(
        metric=metric, variant=name, count=sample.count, mean=sample.mean, low=own.low, high=own.high
    )
    apart = None if first is None or name == variants[0] else compare(first, sample, _alpha(variants))
    if apart is None:
        return figures
    names = ("difference", "difference_low", "difference_high", "p_value")
    return figures.model_copy(update=dict(zip(names, apart, strict=True)))


def _result(request: ExperimentRequest, name: str, measured: Measurements) -> VariantResult:
    counts = measured.counts.get(name, Counts())
    result = VariantResult(
        variant=name,
        ended=counts.ended_count,
        open=counts.open,
        unpriced=counts.unpriced,
        cost_usd=from_pico(counts.cost_pico),
    )
    others = [variant.name for variant in request.variants]
    first, own = (measured.samples.get((request.metric, of)) for of in (others[0], name))
    alpha = _alpha(others)
    if name == others[0]:
        return result
    apart = None if first is None or own is None else compare(first, own, alpha)
    verdict = None if apart is None else _verdict(request, apart, alpha)
    missing = 0 if verdict else _missing(request, first, own, alpha)
    return result.model_copy(update={"verdict": verdict, "missing": missing})


def _verdict(request: ExperimentRequest, apart: Difference, alpha: float) -> Verdict | None:
    if apart.p_value <= alpha:
        is_less = apart.value < 0
        return "better" if is_less == (request.metric in LOWER_IS_BETTER) else "worse"
    is_near = max(-apart.low, apart.high) < request.difference
    return "same" if is_near else None


def _missing(
    request: ExperimentRequest, first: Sample | None, own: Sample | None, alpha: float
) -> int | None:
    """How many more observations of each of the two it takes; None while the variance is not known."""
    if request.metric == SUCCESS:
        share = 0.5 if first is None or first.count < MIN_COUNT else first.mean
        variance = max(_spread(share - request.difference), _spread(share + request.difference))
        variance += _spread(share)
    elif first is None or own is None or min(first.count, own.count) < MIN_COUNT:
        return None
    else:
        variance = first.variance + own.variance
    observed = min(0 if sample is None else sample.count for sample in (first, own))
    return max(1, needed(variance, request.difference, alpha) - observed)


def _spread(share: float) -> float:
    share = min(1.0, max(0.0, share))
    return share * (1 - share)


def breach(request: ExperimentRequest, measured: Measurements) -> Breach | None:
    """The first variant that the guard of an experiment has surely found too bad, but for the first one."""
    guard, names = request.guard, [variant.name for variant in request.variants]
    if guard is None:
        return None
    first = measured.samples.get((guard.metric, names[0]))
    for name in names[1:]:
        sample = measured.samples.get((guard.metric, name))
        if sample is not None and (reason := _reason(guard, first, sample, _alpha(names))):
            return Breach(name, guard.metric, f"{guard.metric} of {name} is {reason}")
    return None


def _reason(guard: ExperimentGuard, first: Sample | None, sample: Sample, alpha: float) -> str:
    """Why a sample is too bad; "" where it is not, or not surely."""
    is_cost = guard.metric in LOWER_IS_BETTER
    if guard.bound is not None:
        own = bounds(sample, alpha)
        if own is None or not (own.low > guard.bound if is_cost else own.high < guard.bound):
            return ""
        side = "above" if is_cost else "below"
        return f"{sample.mean:.4g}, surely {side} {guard.bound:g}"
    apart = None if first is None else compare(first, sample, alpha)
    if apart is None or guard.worse_by is None:
        return ""
    worse = Interval(apart.low, apart.high) if is_cost else Interval(-apart.high, -apart.low)
    if worse.low <= guard.worse_by:
        return ""
    return f"worse by {worse.low:.4g} to {worse.high:.4g}, more than {guard.worse_by:g}"


# Statistics: pure functions of counts and sums. The always-valid figures are those of the mixture sequential
# probability ratio test (Johari and others, 2017): looked at after every task, it finds a difference that is
# not there in at most `alpha` of all experiments.

ALPHA = 0.05
MIN_COUNT = 20
"""Observations of each arm below which nothing is said: the variance is not known well enough."""
_MIXING = 0.05  # variance of the differences that the test expects, as a share of that of one observation
_POWER = 0.95
_NORMAL = NormalDist()
_NOISE = 1e-12  # of a variance, as a share of the squared mean: sums of floats are no more exact
_MOST = 1_000_000_000


class Interval(NamedTuple):
    """The values that fit what was seen."""

    low: float
    high: float


class Sample(NamedTuple):
    """Independent observations: how many, their mean, and the variance of one."""

    count: int
    mean: float
    variance: float

    @classmethod
    def from_sums(cls, count: int, mean: float, mean_square: float) -> Sample:
        """Any numbers, by their mean and the mean of their squares."""
        spread = mean_square - mean * mean
        if count < 2 or spread <= _NOISE * mean * mean:
            return cls(count, mean, 0.0)
        return cls(count, mean, spread * count / (count - 1))

    @classmethod
    def from_share(cls, count: int, mean: float) -> Sample:
        """Observations from 0 to 1. The variance is that of one success and one failure more, so never 0."""
        smoothed = (mean * count + 1) / (count + 2)
        return cls(count, mean, smoothed * (1 - smoothed))


class Difference(NamedTuple):
    """How far the mean of one sample is from that of another, with always-valid interval and p-value."""

    value: float
    low: float
    high: float
    p_value: float


def wilson(successes: float, count: int, alpha: float = ALPHA) -> Interval:
    """The interval of a share, after Wilson."""
    z, share = _NORMAL.inv_cdf(1 - alpha / 2), successes / count
    divisor = 1 + z * z / count
    centre = (share + z * z / 2 / count) / divisor
    width = z / divisor * math.sqrt(max(0.0, share * (1 - share)) / count + z * z / 4 / count / count)
    return Interval(max(0.0, centre - width), min(1.0, centre + width))


def mean_interval(sample: Sample, alpha: float = ALPHA) -> Interval:
    """The interval of a mean, by Student's t."""
    if sample.count < 2 or not sample.variance:
        return Interval(sample.mean, sample.mean)
    low, high, degrees = 0.0, 1e4, sample.count - 1
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _two_sided(middle, degrees) > alpha else (low, middle)
    width = high * math.sqrt(sample.variance / sample.count)
    return Interval(sample.mean - width, sample.mean + width)


def compare(first: Sample, second: Sample, alpha: float = ALPHA) -> Difference | None:
    """The second mean less the first; None while a sample is too small."""
    if min(first.count, second.count) < MIN_COUNT:
        return None
    error = first.variance / first.count + second.variance / second.count
    return _always_valid(second.mean - first.mean, error, first.variance + second.variance, alpha)


def bounds(sample: Sample, alpha: float = ALPHA) -> Interval | None:
    """The always-valid interval of one mean; None while the sample is too small."""
    if sample.count < MIN_COUNT:
        return None
    interval = _always_valid(sample.mean, sample.variance / sample.count, sample.variance, alpha)
    return Interval(interval.low, interval.high)


def needed(variance: float, difference: float, alpha: float = ALPHA) -> int:
    """How many observations of each arm find a difference of that size in 95 of 100 experiments.

    `variance` is that of one observation of the one arm and one of the other.
    """
    if variance <= 0:
        return MIN_COUNT
    low, high = MIN_COUNT, _MOST

    def is_enough(count: int) -> bool:
        required = _threshold(_MIXING * count, alpha) + _NORMAL.inv_cdf(_POWER)
        return difference * math.sqrt(count / variance) >= required

    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return low


def _always_valid(value: float, error: float, variance: float, alpha: float) -> Difference:
    """`error` is the variance of the value, `variance` that of one observation of it."""
    if error <= 0:
        return Difference(value, value, value, float(not value))
    ratio = _MIXING * variance / error
    exponent = value * value / error * ratio / (2 * (1 + ratio))
    p_value = math.exp(min(0.0, math.log1p(ratio) / 2 - exponent))
    width = _threshold(ratio, alpha) * math.sqrt(error)
    return Difference(value, value - width, value + width, p_value)


def _threshold(ratio: float, alpha: float) -> float:
    """How many standard errors a value is from 0 where its always-valid p-value is alpha."""
    return math.sqrt((1 + ratio) / ratio * (math.log1p(ratio) - 2 * math.log(alpha)))


def _two_sided(t: float, degrees: float) -> float:
    """The probability of a value at least as far from 0 by Student's t."""
    return _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    if x in (0.0, 1.0):
        return x
    logs = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(1 - x)
    if x < (a + 1) / (a + b + 2):
        return math.exp(logs) * _continued(a, b, x) / a
    return 1 - math.exp(logs) * _continued(b, a, 1 - x) / b


def _continued(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, after Lentz."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    result = d
    for step in range(1, 300):
        even = step * (b - step) * x / ((a - 1 + 2 * step) * (a + 2 * step))
        odd = -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 1 + 2 * step))
        for factor in (even, odd):
            d, c = 1 / (1 + factor * d), 1 + factor / c
            result *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return result
