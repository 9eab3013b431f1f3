"""What a task has cost by the ledger and its outcome, however its calls were cut off.

Each program here is the shortest of a random walk that broke a promise.
"""

from __future__ import annotations

import pytest

from tests.support.walker.acts import Act, Moment
from tests.support.walker.history import Plan
from tests.support.walker.oracle import findings_of
from tests.support.walker.programs import Job, Op, Request
from tests.support.walker.walk import run_walk

CALLS = tuple(Op("tool", request=Request(name, "C", 2)) for name in ("mail", "pay"))
PROGRAM = {
    "j0": Job("a0y", (Op("delegate", job="j1"),)),
    "j1": Job("a1y", (Op("delegate", job="j2"),)),
    "j2": Job("a2y", (Op("converse", rounds=(CALLS,)),)),
}


def test_a_call_that_was_cut_off_counts_once_where_its_run_is_stopped_before_it_begins() -> None:
    acts = (Act("kill", Moment("effects", 8), way="fork"), Act("cancel"))
    faults = (("duplicate", 0.3), ("delay", 0.3), ("reorder", 0.05), ("conflict", 0.3))
    walked = run_walk(Plan(200816, PROGRAM, acts, faults=faults, purse=0.0025))
    assert findings_of(walked) == []
    assert {view.status for view in walked.tasks.values()} == {"cancelled"}


@pytest.mark.parametrize("seed", range(4))
def test_a_call_that_ends_as_its_task_is_cancelled_costs_what_its_reply_says(seed: int) -> None:
    """Code that gathers calls ends with the first that is cancelled, and leaves the others behind."""
    says = [Op("say", name=name) for name in ("y3", "y2", "y5")]
    beside = (Op("tool", request=CALLS[0].request), Op("ask", name="q6"))
    legs = Op("legs", name="l1", way="http", branches=((says[0],), (says[1], says[2]), beside))
    acts = (Act("cancel", Moment("effects", 6)),)
    walked = run_walk(Plan(seed, {"j0": Job("a0x", (legs,))}, acts))
    assert findings_of(walked) == []
