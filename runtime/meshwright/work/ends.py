"""How attempts end that their agent did not end itself, and which ends a thread remembers."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from meshwright.core.encoding import encode
from meshwright.core.messages import Fault, Outcome
from meshwright.work.protocol import Grant
from meshwright.work.record import Entry

MAX_STALLED_CLAIMS = 3  # in a row; then the task is a dead letter
PROCESS_ENDED = "its process ended (a crash in native code, too little memory, os._exit, a kill)"
MAX_REMEMBERED_ENDS = 8  # attempts whose outcome a repeated dispatch gets again
_MAX_REMEMBERED_BYTES = 32 * 1024  # of their results: the state is written with every turn


def unsuccessful(
    status: Literal["cancelled", "failed"],
    attempt: Entry | Grant,
    agent_id: str,
    fault: Fault,
    now: datetime,
) -> Outcome:
    """The outcome of an attempt that its agent did not end itself, with what its calls of models cost."""
    return Outcome(
        task_id=attempt.task_id,
        agent_id=agent_id,
        capability=attempt.capability,
        status=status,
        success=False,
        error=fault,
        usage=attempt.usage,
        cost_usd=attempt.cost_usd,
        completed_at=now,
        generation=attempt.generation,
        attempt=attempt.attempt,
    )


def broke_off(entry: Entry, agent_id: str, reason: str, now: datetime) -> Outcome:
    """The outcome of an attempt whose claims ended one after another without another step."""
    message = (
        f"The work broke off {entry.stalled_claims} times in a row without finishing another step, "
        f"the last time because of this: {reason or PROCESS_ENDED}. The log of the mesh says more. "
        "Repair the cause, then submit the task again"
    )
    return unsuccessful("failed", entry, agent_id, Fault(type="BrokeOff", message=message), now)


def last_ends(ends: list[Outcome]) -> list[Outcome]:
    """The last ends, as many as may be remembered, and the very last however large it is."""
    kept = ends[-MAX_REMEMBERED_ENDS:]
    if len(kept) == 1:
        return kept
    sizes = [len(encode(end.result)) for end in kept]
    while len(kept) > 1 and sum(sizes) > _MAX_REMEMBERED_BYTES:
        del kept[0], sizes[0]
    return kept


def attempt_ended(outcome: Outcome) -> tuple[str, int, int]:
    """What tells the attempt that ended from every other of its thread."""
    return outcome.task_id, outcome.generation, outcome.attempt
