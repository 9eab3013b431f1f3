"""The results of experiments and of evaluations, as runs of MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from meshwright.core.encoding import encode

if TYPE_CHECKING:
    from meshwright.services.evaluations.records import EvaluationView, Figure
    from meshwright.services.experiments.records import (
        ExperimentFigures,
        ExperimentResults,
        VariantResult,
        VariantSpec,
    )


class ResultsRun(NamedTuple):
    """A run to make, with the runs below it. `document` is JSON, and becomes an artifact."""

    name: str
    started_at: datetime
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float] = {}
    parts: Sequence[ResultsRun] = ()
    document: bytes = b""


def run_of_experiment(results: ExperimentResults) -> ResultsRun:
    """The run of an experiment, with one below it for each variant."""
    experiment = results.experiment
    started_at = experiment.started_at or experiment.created_at
    parts = [
        _run_of_variant(
            spec, result, [figure for figure in results.figures if figure.variant == spec.name], started_at
        )
        for spec, result in zip(experiment.variants, results.variants, strict=True)
    ]
    plan = experiment.model_dump(include={"agent_id", "unit", "metric", "runs_over"})
    fields = experiment.model_dump(include={"experiment_id", "stopped_by", "reason", "action"})
    return ResultsRun(
        experiment.name,
        started_at,
        tags=_tags(fields),
        params=_texts({**plan, "minimum_difference": experiment.difference}),
        parts=parts,
        document=results.model_dump_json().encode(),
    )


def _run_of_variant(
    spec: VariantSpec, result: VariantResult, figures: Sequence[ExperimentFigures], started_at: datetime
) -> ResultsRun:
    counts = {"ended": result.ended, "open": result.open, "unpriced": result.unpriced}
    metrics: dict[str, float | None] = {
        **{f"tasks/{name}": count for name, count in counts.items()},
        "tasks/cost_usd": float(result.cost_usd),
        "missing": result.missing,
    }
    for figure in figures:
        values = figure.model_dump(exclude={"metric", "variant", "mean"})
        metrics |= {figure.metric: figure.mean}
        metrics |= {f"{figure.metric}/{name}": value for name, value in values.items()}
    changes = spec.model_dump(exclude={"name"}, exclude_defaults=True)
    tags = _tags({"variant": spec.name, "verdict": result.verdict or "open"})
    return ResultsRun(spec.name, started_at, tags, _texts(changes), _known(metrics))


def run_of_evaluation(evaluation: EvaluationView) -> ResultsRun:
    """The run of an evaluation."""
    judge = evaluation.judge.model_dump() if evaluation.criteria else {}
    cost = None if evaluation.cost_usd is None else float(evaluation.cost_usd)
    metrics: dict[str, float | None] = {
        "items": evaluation.items,
        "items/failed": evaluation.failed,
        "cost_usd": cost,
    }
    for figure in evaluation.figures:
        metrics |= _of_figure(figure)
    params = {"agent_id": evaluation.agent_id, **{f"judge.{name}": value for name, value in judge.items()}}
    return ResultsRun(
        evaluation.name or evaluation.evaluation_id,
        evaluation.created_at,
        tags=_tags({"evaluation_id": evaluation.evaluation_id, "requested_by": evaluation.requested_by}),
        params=_texts(params),
        metrics=_known(metrics),
        document=evaluation.model_dump_json().encode(),
    )


def _of_figure(figure: Figure) -> dict[str, float | None]:
    values: dict[str, Any] = figure.model_dump(exclude={"name", "kind", "mean"})
    return {figure.name: figure.mean, **{f"{figure.name}/{name}": value for name, value in values.items()}}


def _tags(values: Mapping[str, Any]) -> dict[str, str]:
    return {f"meshwright.{name}": text for name, text in _texts(values).items()}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    filled = {name: value for name, value in values.items() if value is not None}
    return {
        name: value if isinstance(value, str) else encode(value).decode() for name, value in filled.items()
    }


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
