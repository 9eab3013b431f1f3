"""The end of a task before it is cancelled: what it has done, what is cut off, and what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from meshwright.core.display import dollars
from meshwright.core.encoding import Struct
from meshwright.core.messages import ENDED, TaskStatus
from meshwright.core.money import Amount, exact
from meshwright.mesh.orchestration.retry_plan import LastStep, counted_names, in_line
from meshwright.money.task_costs import TaskTree


class CancelPlan(Struct):
    """The end of an open task, and `text` that says it in sentences.

    `effects` are the names of finished steps that may have changed something, which stays so; `cut_off` those
    of calls that were begun and have no result: they may take effect all the same. `tasks_below` open tasks
    that it delegated are cancelled too. `cost_usd` is what the whole tree has cost so far, None where a price
    is unknown. The reservations of calls under way are released, less what they have cost.
    """

    task_id: str
    status: TaskStatus
    effects: tuple[str, ...] = ()
    cut_off: tuple[str, ...] = ()
    steps: int = 0
    tasks_below: int = 0
    cost_usd: Amount | None = None
    text: str = ""

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)


def make_plan(
    task_id: str, status: TaskStatus, steps: Sequence[LastStep], tree: TaskTree | None
) -> CancelPlan:
    """The plan of a task with the steps that it has made and the tasks below it."""
    nodes = () if tree is None else tree.items
    changes = [step.summary for step in steps if step.has_effect and not step.summary.is_copied]
    plan = CancelPlan(
        task_id=task_id,
        status=status,
        effects=counted_names(step for step in changes if step.status != "unfinished"),
        cut_off=counted_names(step for step in changes if step.status == "unfinished"),
        steps=len(steps),
        tasks_below=sum(node.status not in ENDED for node in nodes[1:]),
        cost_usd=None if not nodes or nodes[0].tree_unpriced else nodes[0].tree_cost_usd,
    )
    return replace(plan, text=" ".join(_sentences(plan)))


def without_names(plan: CancelPlan) -> CancelPlan:
    """The same for a caller who may not see the names of steps."""
    plan = replace(plan, effects=_count(plan.effects), cut_off=_count(plan.cut_off))
    return replace(plan, text=" ".join(_sentences(plan)))


def _sentences(plan: CancelPlan) -> Iterable[str]:
    if not plan.steps:
        yield "It has finished no step."
    elif not plan.effects:
        yield "No step that it has finished has changed anything."
    else:
        yield f"This is not undone: {in_line(plan.effects)}."
    if plan.cut_off:
        yield f"This is cut off, and may take effect all the same: {in_line(plan.cut_off)}."
    if plan.tasks_below:
        are = "task that it delegated is" if plan.tasks_below == 1 else "tasks that it delegated are"
        yield f"{plan.tasks_below} open {are} cancelled too."
    if plan.cost_usd is None:
        yield "The price of what it cost so far is unknown."
    else:
        yield f"So far it cost {dollars(plan.cost_usd)}."
    yield "What is reserved for calls under way is released, less what they have cost."


def _count(names: Sequence[str]) -> tuple[str, ...]:
    return (f"{len(names)} kind{'' if len(names) == 1 else 's'} of steps",) if names else ()
