"""The results of experiments: metrics per variant with their intervals, verdicts, and what guards find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from meshwright.core.money import from_pico
from meshwright.services.experiments import statistics
from meshwright.services.experiments.records import (
    LOWER_IS_BETTER,
    METRICS,
    SUCCESS,
    ExperimentFigures,
    ExperimentGuard,
    ExperimentRequest,
    ExperimentResults,
    VariantResult,
)
from meshwright.services.experiments.statistics import ALPHA, MIN_COUNT, Difference, Interval, Sample
from meshwright.services.experiments.table import ExperimentRow
from meshwright.sql.database import Session

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
    of = Sample.of_share(count, mean) if metric == SUCCESS else Sample.of_sums(count, mean, mean_square)
    return of._replace(count=int(count))


def results(row: ExperimentRow, measured: Measurements) -> ExperimentResults:
    """The results of an experiment."""
    request = row.request
    names = [variant.name for variant in request.variants]
    metrics = dict.fromkeys((request.metric, *METRICS, *_scores(measured)))
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


def _scores(measured: Measurements) -> Sequence[str]:
    return sorted({metric for metric, _ in measured.samples} - {*METRICS})


def _alpha(variants: Sequence[Any]) -> float:
    """The chance of a false alarm in one comparison, where there are several."""
    return ALPHA / (len(variants) - 1)


def _figures(
    metric: str, name: str, sample: Sample, first: Sample | None, variants: Sequence[str]
) -> ExperimentFigures:
    if metric == SUCCESS:
        own = statistics.wilson(sample.mean * sample.count, sample.count)
    else:
        own = statistics.mean_interval(sample)
    figures = ExperimentFigures(
        metric=metric, variant=name, count=sample.count, mean=sample.mean, low=own.low, high=own.high
    )
    apart = (
        None if first is None or name == variants[0] else statistics.compare(first, sample, _alpha(variants))
    )
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
    apart = None if first is None or own is None else statistics.compare(first, own, alpha)
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
    return max(1, statistics.needed(variance, request.difference, alpha) - observed)


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
        own = statistics.bounds(sample, alpha)
        if own is None or not (own.low > guard.bound if is_cost else own.high < guard.bound):
            return ""
        side = "above" if is_cost else "below"
        return f"{sample.mean:.4g}, surely {side} {guard.bound:g}"
    apart = None if first is None else statistics.compare(first, sample, alpha)
    if apart is None or guard.worse_by is None:
        return ""
    worse = Interval(apart.low, apart.high) if is_cost else Interval(-apart.high, -apart.low)
    if worse.low <= guard.worse_by:
        return ""
    return f"worse by {worse.low:.4g} to {worse.high:.4g}, more than {guard.worse_by:g}"
