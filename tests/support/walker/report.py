"""A finding for people: the program, the acts, what happened, and what must not have."""

from __future__ import annotations

from dataclasses import replace

from tests.support.walker.facts import Finding
from tests.support.walker.history import History, Plan
from tests.support.walker.oracle import findings_of
from tests.support.walker.programs import lines_of
from tests.support.walker.shrink import shrunk
from tests.support.walker.walk import run_walk


def script_of(history: History, finding: Finding, store: str = "memory") -> str:
    """A walk as a short script."""
    plan = history.plan
    again = f"--seed {plan.seed}"
    if store != "memory":
        again = f"--store {store} --seeds {plan.seed}..{plan.seed + 1}"
    faults = ", ".join(f"{name} {chance}" for name, chance in plan.faults)
    deadline = f" (deadline {plan.deadline:g} s)" if plan.deadline is not None else ""
    draws = {"thread": plan.thread, "purse": plan.purse, "lies": plan.lies}
    drawn = "".join(f" ({name} {value})" for name, value in draws.items() if value)
    lines = [
        f"== {finding.kind}",
        finding.text,
        f"-- program{f' (store: {faults})' if faults else ''}{deadline}{drawn}",
        *lines_of(plan.program),
        "-- acts, and what came of them",
        *history.lines,
        "-- effects",
        *(
            f"#{effect.number} {effect.request} of {history.name_of(effect.task_id)}, "
            f"key ...{effect.key[-4:]}, process {effect.incarnation}, act {effect.at_act}"
            for effect in history.world.effects
        ),
        "-- tasks",
        *(
            f"{history.name_of(task_id)} {history.job_of(task_id)}"
            f"{f' of {history.name_of(view.parent_task_id)}' if view.parent_task_id else ''}: {view.status}"
            f", {len(view.attempts)} attempts"
            for task_id, view in history.tasks.items()
        ),
        f"-- again: python -m tests.support.walker {again}",
    ]
    return "\n".join(lines)


def finding_in(plan: Plan, rule: str) -> tuple[History, Finding] | None:
    """Walk, and return the first finding by a rule if the walk shows one."""
    history = run_walk(plan)
    return next(((history, finding) for finding in findings_of(history) if finding.rule == rule), None)


def shortest(plan: Plan, rule: str, *, max_tries: int) -> tuple[History, Finding]:
    """The shortest walk with a finding by a rule. Raises AssertionError where walks of a plan differ."""
    begun = finding_in(plan, rule)
    assert begun is not None, f"the walk of seed {plan.seed} is not the same each time"
    plan = replace(plan, acts=tuple(begun[0].acts))
    short = shrunk(plan, lambda candidate: finding_in(candidate, rule) is not None, max_tries=max_tries)
    again = finding_in(short, rule)
    assert again is not None, f"the walk of seed {plan.seed} is not the same each time"
    return again
