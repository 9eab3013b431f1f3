"""Clients and runtimes that are broken on purpose, so that the oracle has something to find."""

from __future__ import annotations

from typing import Any

from meshwright import topics
from meshwright.actor import Turn, turn
from meshwright.envelope import ActorRef
from meshwright.messages import Caller, derived_id
from meshwright.work.protocol import Completed
from meshwright.work.thread import AgentThread
from meshwright.work.worker import Worker

ACK_ON_RECEIPT = "ack on receipt"  # the client counts a task as accepted before the mesh has it
ZOMBIES = "zombies"  # the end of each work is committed a second time
NO_FENCE = "zombies and no fence"  # ... and the thread takes it
NOTHING = ""


def task_id_of(key: str) -> str:
    """The id that a task gets by its key: a client can know it before anything is durable."""
    caller = Caller()
    return derived_id(caller.tenant_id, caller.source, key)


def break_on_purpose(control: str) -> None:
    """Break this process's runtime. To acknowledge too early is left to the client."""
    if control in (ZOMBIES, NO_FENCE):
        raise_the_dead()
    if control == NO_FENCE:
        take_any_end()


def raise_the_dead() -> None:
    """Let each worker end its work twice, as one does that was thought dead and has been replaced."""
    call = Worker._call

    async def call_twice(self: Worker, ref: ActorRef, method: str, body: Any, *rest: Any) -> Any:
        reply = await call(self, ref, method, body, *rest)
        if method == "complete":
            await call(self, ref, method, body, *rest)
        return reply

    setattr(Worker, "_call", call_twice)  # noqa: B010


def take_any_end() -> None:
    """Let each thread commit whatever end it is given."""
    fenced = AgentThread.complete

    @turn
    def complete(self: AgentThread, turn: Turn, completed: Completed) -> bool:
        if not fenced(self, turn, completed):
            turn.publish(topics.TASK_RESULTS, "attempt.ended", completed.outcome, task_id=completed.task_id)
        return True

    setattr(AgentThread, "complete", complete)  # noqa: B010
