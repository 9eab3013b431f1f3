"""Sums up evaluations: figures over items, costs, and what to keep in mind."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from statistics import fmean
from typing import Any

from meshwright.services.evaluations import metrics
from meshwright.services.evaluations.records import (
    EvaluationFigure,
    EvaluationItem,
    EvaluationSummary,
    EvaluationView,
    ItemFigures,
    ItemState,
    ItemTexts,
    Judgement,
    Kind,
    Spec,
)
from meshwright.services.evaluations.table import EvaluationRow, ItemRow

_FEW_LABELS = 20


def item_of(row: ItemRow, *, with_texts: bool) -> EvaluationItem:
    """An item as it is shown."""
    state = ItemState.model_validate_json(row.state)
    figures = None if row.figures is None else ItemFigures.model_validate_json(row.figures)
    return EvaluationItem(
        number=row.number,
        status="open" if figures is None else "failed" if figures.error else "done",
        task_id=state.task_id,
        label=state.label,
        figures=figures,
        texts=ItemTexts.model_validate_json(row.texts) if with_texts and row.texts else None,
    )


def summary_of(row: EvaluationRow, items: Sequence[ItemRow]) -> EvaluationSummary:
    """An evaluation in short; `items` are those of one that runs."""
    spec = Spec.model_validate_json(row.spec)
    fields = {
        "evaluation_id": row.id,
        "name": spec.name,
        "items": row.items,
        "requested_by": spec.requested_by,
        "created_at": datetime.fromtimestamp(row.created_at, UTC),
    }
    if row.ended_at is not None:
        ended_at, cost = datetime.fromtimestamp(row.ended_at, UTC), row.cost_usd
        sums = {"done": row.items, "failed": row.failed, "cost_usd": None if cost is None else Decimal(cost)}
        return EvaluationSummary.model_validate({**fields, **sums, "status": "done", "ended_at": ended_at})
    done_items = [ItemFigures.model_validate_json(item.figures) for item in items if item.figures is not None]
    costs = [item.cost_usd for item in done_items]
    sums = {
        "done": len(done_items),
        "failed": sum(item.error is not None for item in done_items),
        "cost_usd": None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0)),
    }
    return EvaluationSummary.model_validate({**fields, **sums, "status": "running"})


def view_of(row: EvaluationRow, rows: Sequence[ItemRow]) -> EvaluationView:
    """An evaluation with its figures over the items that are done."""
    spec = Spec.model_validate_json(row.spec)
    items = [item for item_row in rows if (item := item_of(item_row, with_texts=False)).figures is not None]
    figures = [_judged(spec, criterion.name, items) for criterion in spec.criteria]
    figures += [_measured(name, items) for name in spec.metrics]
    return EvaluationView(
        **dict(summary_of(row, rows)),
        agent_id=spec.agent_id,
        criteria=spec.criteria,
        metrics=spec.metrics,
        judge=spec.judge,
        figures=figures,
        warnings=_warnings(figures),
    )


def _measured(name: str, items: Sequence[EvaluationItem]) -> EvaluationFigure:
    return _figure(name, "metric", [item.figures.metrics.get(name) for item in items if item.figures])


def _judged(spec: Spec, name: str, items: Sequence[EvaluationItem]) -> EvaluationFigure:
    judged = [(item, item.figures.criteria.get(name, Judgement())) for item in items if item.figures]
    all_pairs = [_pair(spec, name, item.label, judgement.value) for item, judgement in judged]
    pairs = [pair for pair in all_pairs if pair is not None]
    kind: Kind = "preference" if spec.judge.pairwise else "score"
    counts = {
        "labelled": len(pairs),
        "kappa": metrics.kappa(pairs),
        "same_model": sum(judgement.same_model for _, judgement in judged),
        "disagreed": sum(judgement.disagreed for _, judgement in judged),
    }
    return _figure(name, kind, [judgement.value for _, judgement in judged], **counts)


def _figure(name: str, kind: Kind, measured: Sequence[float | None], **counts: Any) -> EvaluationFigure:
    values = [value for value in measured if value is not None]
    return EvaluationFigure(
        name=name,
        kind=kind,
        mean=fmean(values) if values else None,
        lowest=min(values, default=None),
        highest=max(values, default=None),
        count=len(values),
        missing=len(measured) - len(values),
        **counts,
    )


def _pair(spec: Spec, name: str, label: object, value: float | None) -> tuple[float, float] | None:
    """A judge's value beside a person's; None where one of both is missing."""
    expected = label.get(name) if isinstance(label, dict) else label
    if value is None or not isinstance(expected, bool | int | float):
        return None
    if isinstance(expected, bool):
        value = float(value >= (0.5 if spec.judge.pairwise else spec.judge.pass_score))
    return value, float(expected)


def _warnings(figures: Sequence[EvaluationFigure]) -> list[str]:
    warnings: list[str] = []
    for figure in figures:
        if figure.kind == "metric":
            continue
        if figure.same_model:
            warnings.append(
                f"{figure.name}: the model that judged {figure.same_model} items wrote their answers"
            )
        if not figure.labelled:
            warnings.append(f"{figure.name}: no labels of people say how far to trust this judge")
        elif figure.labelled < _FEW_LABELS:
            warnings.append(f"{figure.name}: kappa is of {figure.labelled} labels alone")
    return warnings
