"""The ways to work on a task again: the steps that each keeps and repeats, their effects, and their costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from msgspec.structs import replace

from meshwright.agents.run.recorded_steps import APPROVE
from meshwright.agents.run.transcript import Transcript
from meshwright.core.display import dollars
from meshwright.core.encoding import Struct
from meshwright.core.messages import Fault
from meshwright.core.money import Amount, exact
from meshwright.engine.work.protocol import Begin
from meshwright.engine.work.record import StepSummary, TaskRecord
from meshwright.money.task_costs import TaskTree

_MAX_NAMES = 12
_WITHOUT_EFFECT = ("context", "model")
_NOTES = (
    "ask_person",
    "changes",
    "progress",
    "recall",
    "skills",
    "state",
    "title",
)  # of a run: nothing outside


class RetryWay(Struct):
    """One way to work on a task again, and `text` that says it in sentences.

    `steps_kept` finished steps stay, and cost nothing again. `steps_again` is how many that ran before run
    again: `names` are theirs, and `effects` the names of those that may have changed something. `asks` says
    that a person decides before these are repeated. `cost_usd` is what the calls of models in the repeated
    steps and in the tasks that they delegated cost before; None where a price is unknown. `refused` is why
    the task can't be worked on again this way.
    """

    begin: Begin
    steps_kept: int = 0
    steps_again: int = 0
    names: tuple[str, ...] = ()
    effects: tuple[str, ...] = ()
    asks: bool = False
    cost_usd: Amount | None = Decimal(0)
    text: str = ""
    refused: Fault | None = None

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)


class RetryPlan(Struct):
    """The ways to work on a task again, first the one that a retry without `begin` takes."""

    task_id: str
    ways: tuple[RetryWay, ...]
    error: Fault | None = None


class LastStep(NamedTuple):
    """A step, and whether it may have changed something."""

    summary: StepSummary
    has_effect: bool


def last_steps(record: TaskRecord, transcripts: Sequence[Transcript]) -> list[LastStep]:
    """The steps of the last attempt, and of those that it went on with, each path once."""
    by_path: dict[str, LastStep] = {}
    number: int | None = len(record.attempts) or None
    while number is not None:
        transcript = transcripts[number - 1]
        for path in transcript.paths:
            if path not in by_path:
                step = transcript.summary(path)
                by_path[path] = LastStep(step, _may_change(step) and not transcript.changes_nothing(path))
        number = record.attempts[number - 1].continues
    return list(by_path.values())


def retry_way(
    begin: Begin,
    steps: Iterable[LastStep],
    kept_paths: set[str],
    costs: Mapping[str, Amount | None],
    *,
    asks: bool,
) -> RetryWay:
    """The way that keeps the steps of some paths; `costs` are those of delegated tasks by their ids."""
    repeated = [step for step in steps if step.summary.path not in kept_paths and not step.summary.is_copied]
    again = [step.summary for step in repeated]
    names = counted_names(again, skipped=("context",))
    effects = counted_names(step.summary for step in repeated if step.has_effect)
    way = RetryWay(
        begin=begin,
        steps_kept=len(kept_paths),
        steps_again=len(again),
        names=names,
        effects=effects,
        asks=asks and bool(effects),
        cost_usd=_cost(again, costs),
    )
    return replace(way, text=" ".join(_sentences(way)))


def without_names(way: RetryWay) -> RetryWay:
    """The same for a caller who may not see the names of steps."""
    if way.refused is not None:
        return way
    way = replace(way, names=(), effects=())
    return replace(way, text=" ".join(_sentences(way)))


def child_costs(tree: TaskTree | None) -> dict[str, Amount | None]:
    """The cost of each task of a tree with those below it; None where a price is unknown."""
    nodes = () if tree is None else tree.items
    return {node.task_id: None if node.tree_unpriced else node.tree_cost_usd for node in nodes}


def in_line(names: Sequence[str]) -> str:
    """Names with commas between, the first twelve of many."""
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"{', '.join(names[:_MAX_NAMES])}{more}"


def _sentences(way: RetryWay) -> Iterable[str]:
    if way.begin == "start":
        yield "It starts over and keeps no step."
    else:
        yield f"It keeps {_steps(way.steps_kept, 'finished step')}, at no cost."
    if not way.steps_again:
        yield "No step that ran before runs again; it goes on behind them."
        return
    names = f": {in_line(way.names)}" if way.names else ""
    run = "runs" if way.steps_again == 1 else "run"
    yield f"{_steps(way.steps_again, 'step')} {run} again{names}."
    if way.cost_usd is None:
        yield "The price of what they cost before is unknown."
    else:
        yield f"Before, they cost {dollars(way.cost_usd)}."
    if way.effects:
        effects = in_line(way.effects)
        yield (
            f"A person decides first whether to repeat what may have taken effect: {effects}."
            if way.asks
            else f"These may take effect once more: {effects}."
        )


def _steps(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def counted_names(steps: Iterable[StepSummary], skipped: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The names of steps, each once with how often it is there."""
    counts = Counter(_step_name(step) for step in steps if step.kind not in skipped)
    return tuple(name if count == 1 else f"{count} × {name}" for name, count in counts.items())


def _may_change(step: StepSummary) -> bool:
    is_note = step.kind == "step" and (step.name in _NOTES or step.name.startswith(APPROVE))
    return step.status != "waiting" and step.kind not in _WITHOUT_EFFECT and not is_note


def _step_name(step: StepSummary) -> str:
    return step.kind if step.kind == "model" else f"{step.kind} {step.name}".strip()


def _cost(steps: Iterable[StepSummary], costs: Mapping[str, Amount | None]) -> Decimal | None:
    total = Decimal(0)
    for step in steps:
        if step.child_task_id is not None:
            cost = costs.get(step.child_task_id)
        else:
            cost = step.cost_usd if step.calls else Decimal(0)
        if cost is None:
            return None
        total += cost
    return total
