"""The outcome of a task that was cancelled says what the ledger has, whatever cut its calls off.

Each program here is the shortest of a random walk that broke a promise.
"""

from __future__ import annotations

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
