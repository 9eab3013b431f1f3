"""The experiments that their guards have stopped, as items of the inbox, until a person has seen them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from meshwright.core.messages import Caller
from meshwright.events.inbox import Question, question_id
from meshwright.events.inbox_sources import SourcePage, SourceQuery
from meshwright.services.experiments import table
from meshwright.services.experiments.event_types import ExperimentSeen, ExperimentStopped
from meshwright.services.experiments.table import ExperimentRow
from meshwright.sql.database import Database

Note = Callable[[Caller, str], Awaitable[Any]]
"""Notes that a caller has seen an experiment, by its id."""
_ANSWER = {"type": "object", "properties": {"approve": {"type": "boolean"}}, "required": ["approve"]}


class StoppedByGuards:
    """Lists experiments that a guard has stopped. Any answer says that a person has seen it."""

    name = "experiment"
    event_types: Collection[str] = (ExperimentStopped.event_type, ExperimentSeen.event_type)

    def __init__(self, database: Database, note: Note) -> None:
        self._database = database
        self._note = note

    async def page(self, query: SourceQuery) -> SourcePage:
        """The oldest first, none that has ended. They are of no task: a filter of tasks leaves all out."""
        if query.of_task is not None:
            return SourcePage([])
        rows = await self._database.read(table.unseen, query.tenant_id)
        items, end = [*filter(query.names, map(_item, rows))], query.after + query.limit
        return SourcePage(items[query.after : end], end if len(items) > end else None)

    async def answer(self, item: Question, value: Any, caller: Caller) -> None:
        """Take the item out of the inbox."""
        await self._note(caller, item.subject["experiment_id"])


def _item(row: ExperimentRow) -> Question:
    view = row.view
    how = "rolled back" if view.action == "rollback" else "stopped"
    return Question(
        id=question_id(row.tenant_id, f"{StoppedByGuards.name}/{row.experiment_id}"),
        seq=0,
        wait_id=f"{StoppedByGuards.name}/{row.experiment_id}",
        task_id="",
        tenant_id=row.tenant_id,
        source=StoppedByGuards.name,
        agent_id=row.agent_id,
        question=f"Experiment {view.name!r} on {row.agent_id} was {how}: {view.reason}. Have you seen it?",
        subject={"kind": StoppedByGuards.name, "experiment_id": row.experiment_id, "action": view.action},
        answer_schema=_ANSWER,
        since=view.stopped_at,
    )
