"""A walk as data: the plan that makes it, and all that happened in it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from meshwright.core.events import Event
from meshwright.engine.events.inbox import Question
from meshwright.engine.work.record import TaskView
from tests.support.walker.acts import Act
from tests.support.walker.programs import Generator, Program, Request
from tests.support.walker.world import World, job_in


@dataclass(frozen=True)
class Plan:
    """All that makes a walk: the same plan is the same walk. Without `acts` they are drawn on the way."""

    seed: int | str
    program: Program
    acts: tuple[Act, ...] | None = None
    faults: tuple[tuple[str, float], ...] = ()
    parks: bool = True
    deadline: float | None = None
    thread: str | None = None
    """The thread of all tasks that callers submit, or one for each."""
    purse: float | None = None
    """Dollars that each of them may spend."""
    lies: bool = False
    """Whether the provider reports how many tokens it used as no provider could."""
    checks: bool = False
    """Whether the checks of tools and steps can look what has happened; else they cannot tell."""

    @classmethod
    def of(cls, seed: int | str) -> Plan:
        chance = random.Random(f"plan {seed}")
        program = Generator(seed).program()
        faults: tuple[tuple[str, float], ...] = ()
        if chance.random() < 0.25:
            faults = tuple(
                (name, chance.choice((0.05, 0.3))) for name in ("duplicate", "delay", "reorder", "conflict")
            )
        parks, deadline = chance.random() < 0.7, chance.choice((None, None, 100.0))
        return cls(
            seed,
            program,
            None,
            faults,
            parks,
            deadline,
            thread="talk" if chance.random() < 0.2 else None,
            purse=chance.choice((0.0005, 0.0015, 0.0025, 0.0045)) if chance.random() < 0.2 else None,
            lies=chance.random() < 0.2,
            checks=chance.random() < 0.5,
        )


@dataclass
class Answered:
    """An answer that somebody gave, and whether the mesh took it."""

    task_id: str
    wait_id: str
    subject: str
    request: Request | None
    value: Any
    by: str
    is_taken: bool
    """True also where its process was killed before it could say so."""
    act: int


@dataclass
class Retried:
    task_id: str
    begin: str
    act: int


@dataclass
class History:
    """All that happened in a walk, as those outside of the mesh know it."""

    plan: Plan
    world: World
    programs: list[Program]
    acts: list[Act] = field(default_factory=list)
    submitted: list[str] = field(default_factory=list)
    answers: list[Answered] = field(default_factory=list)
    retries: list[Retried] = field(default_factory=list)
    cancels: list[tuple[str, int, int]] = field(default_factory=list)
    """Tasks that were cancelled, the number of effects once the mesh was idle after that, and the act."""
    lines: list[str] = field(default_factory=list)
    tasks: dict[str, TaskView] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    inbox: list[Question] = field(default_factory=list)
    costs: Any = None
    leaks: list[str] = field(default_factory=list)
    kills: int = 0
    leases: int = 0
    was_missing: set[str] = field(default_factory=set)
    clock_was_set: bool = False
    names: dict[str, str] = field(default_factory=dict)

    def job_of(self, task_id: str) -> str:
        return job_in(str(self.tasks[task_id].payload["text"]))

    def say(self, text: str) -> None:
        """Tell of something that happened, for those who read the walk."""
        self.lines.append(text)

    def name_of(self, task_id: str) -> str:
        """A short name of a task."""
        return self.names.setdefault(task_id, f"T{len(self.names)}")
