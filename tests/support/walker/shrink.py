"""The shortest walk that still shows a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.support.walker.acts import Moment
from tests.support.walker.history import Plan
from tests.support.walker.programs import smaller

_MAX_TRIES = 400


def shrunk(plan: Plan, shows: Callable[[Plan], bool], *, max_tries: int = _MAX_TRIES) -> Plan:
    """The smallest plan that could be reached by leaving one thing out at a time, and that still shows it."""
    tries = 0
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for candidate in _candidates(plan):
            tries += 1
            if tries > max_tries:
                return plan
            if shows(candidate):
                plan, is_smaller = candidate, True
                break
    return plan


def _candidates(plan: Plan) -> Iterator[Plan]:
    acts = plan.acts or ()
    for less in ({"faults": ()}, {"deadline": None}, {"thread": None}, {"purse": None}, {"lies": False}):
        if (simpler := replace(plan, **less)) != plan:
            yield simpler
    for length in (len(acts) // 2, len(acts) // 4, 1):
        if length:
            for start in range(0, len(acts), length):
                yield replace(plan, acts=acts[:start] + acts[start + length :])
    for program in smaller(plan.program):
        yield replace(plan, program=program)
    for at, act in enumerate(acts):
        simpler = [replace(act, moment=Moment("quiet"))] if act.moment.kind != "quiet" else []
        if act.kind == "kill" and act.way == "stop":
            simpler.append(replace(act, way=""))
        for other in simpler:
            yield replace(plan, acts=(*acts[:at], other, *acts[at + 1 :]))
