"""Programs of agents as data: what each job does, drawn from a seed, edited, and printed.

A program is a dictionary of jobs. The first, `j0`, is what a caller asks for; the others are delegated. Every
job has an agent of its own depth, since an agent that waits for an answer cannot be asked.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

ROOT = "j0"
MAX_DEPTH = 5
AGENTS_A_LEVEL = 2
_MAX_OPS = 14
_ACCOUNTS = ("A", "B", "C")
_KINDS = (
    "tool",
    "gather",
    "delegate",
    "ask",
    "sleep",
    "event",
    "step",
    "charge",
    "progress",
    "legs",
    "session",
)
_MORE_KINDS = ("attach", "remember")
_WEIGHTS = (34, 16, 20, 9, 7, 3, 5, 2, 2, 10, 4)
_LEG_KINDS = ("say", "tool", "timed", "hedge", "stream", "nap", "sleep", "ask")
_LEG_WEIGHTS = (30, 30, 12, 10, 10, 4, 3, 2)
_LEG_WAYS = ("openai", "http", "complete", "own", "threads")
_PAUSES = (0.5, 1.0, 2.0, 4.0)
_SESSION_WAYS = ("goes on", "anew")
SHIELDING_WAYS = ("openai", "http", "complete")
SHIELD = "shield"
"""The way of a timeout whose call goes on beside what its leg does then."""


@dataclass(frozen=True)
class ToolKind:
    """How a tool is declared."""

    name: str
    idempotent: bool = False
    approval: str = ""


TOOLS = {
    kind.name: kind
    for kind in (
        ToolKind("look", idempotent=True),
        ToolKind("pay", idempotent=True),
        ToolKind("mail", idempotent=False),
        ToolKind("deploy", approval="always"),
        ToolKind("grant", idempotent=True, approval="always"),
        ToolKind("launch", approval="once"),
    )
}
READ = "look"
"""The tool that changes nothing."""
STEP = "step"
"""The tool's name that effects of steps of an agent's own code have, which must not be repeated."""


@dataclass(frozen=True, order=True)
class Request:
    """A call that changes something: a tool, or a step, and its arguments."""

    tool: str
    account: str = ""
    amount: int = 0

    def __str__(self) -> str:
        return f"{self.tool}({self.account} {self.amount})"


@dataclass(frozen=True)
class Op:
    """One operation of a job. The fields that its kind needs are set."""

    kind: str
    request: Request | None = None
    name: str = ""
    way: str = ""
    seconds: float = 0.0
    job: str = ""
    branches: tuple[tuple[Op, ...], ...] = ()
    rounds: tuple[tuple[Op, ...], ...] = ()

    def __str__(self) -> str:
        match self.kind:
            case "tool":
                return str(self.request)
            case "delegate":
                return f"delegate {self.job}"
            case "gather":
                return f"[{' | '.join(text_of(branch) for branch in self.branches)}]"
            case "converse":
                return f"model{{{' / '.join(', '.join(map(str, calls)) for calls in self.rounds)}}}"
            case "sleep" | "nap":
                return f"{self.kind} {self.seconds:g}"
            case "legs" | "hedge":
                words = " ".join(filter(None, (self.kind, self.name, self.way)))
                return f"{words} [{' | '.join(text_of(branch) for branch in self.branches)}]"
            case "timed":
                words = " ".join(filter(None, (self.way, f"within {self.seconds:g} s")))
                return f"{words} [{text_of(self.branches[0])}]"
            case "session":
                dies = f", dies {self.seconds:g} times" if self.seconds else ""
                rounds = " / ".join(", ".join(map(str, calls)) for calls in self.rounds)
                return f"session {self.name} that {self.way}{dies} {{{rounds}}}"
            case "say" | "stream":
                pieces = f"{self.seconds:g} pieces" if self.kind == "stream" else ""
                return " ".join(filter(None, (self.kind, self.name, self.way, pieces)))
            case _:
                return f"{self.kind} {self.name}".strip()


@dataclass(frozen=True)
class Job:
    """The work of an agent for one kind of request."""

    agent: str
    ops: tuple[Op, ...]


Program = Mapping[str, Job]


def text_of(ops: Sequence[Op]) -> str:
    return "; ".join(map(str, ops)) or "nothing"


def lines_of(program: Program) -> list[str]:
    """A program for people, a line for each job."""
    return [f"{name} by {job.agent}: {text_of(job.ops)}" for name, job in sorted(program.items())]


def all_ops(ops: Sequence[Op]) -> Iterator[Op]:
    """The operations of a job, those within others too."""
    for op in ops:
        yield op
        for inner in (*op.branches, *op.rounds):
            yield from all_ops(inner)


def requests_of(job: Job) -> Counter[Request]:
    """How often a job asks for each effect."""
    return Counter(op.request for op in all_ops(job.ops) if op.request is not None)


def delegations_of(job: Job) -> Counter[str]:
    """How often a job delegates each other job."""
    return Counter(op.job for op in all_ops(job.ops) if op.kind == "delegate")


def agents_of(depth: int) -> list[str]:
    return [f"a{depth}{letter}" for letter in "xy"[:AGENTS_A_LEVEL]]


def agent_names(program: Program) -> list[str]:
    return sorted({job.agent for job in program.values()})


def depth_of(agent: str) -> int:
    return int(agent[1])


class Generator:
    """Draws a program."""

    def __init__(self, seed: int | str) -> None:
        self._chance = random.Random(f"program {seed}")
        self._shields = random.Random(f"shields {seed}")
        self._jobs: dict[str, Job] = {}
        self._depths: dict[str, int] = {}
        self._names = 0
        self._left = self._chance.randint(2, _MAX_OPS)

    def program(self) -> Program:
        self._add_job(0)
        return {name: self._with_more(job) for name, job in self._jobs.items()}

    def _with_more(self, job: Job) -> Job:
        """A job that attaches a file, or remembers something, perhaps."""
        if any(op.kind == "converse" for op in job.ops) or self._chance.random() > 0.2:
            return job
        kind, place = self._chance.choice(_MORE_KINDS), self._chance.randint(0, len(job.ops))
        return replace(job, ops=(*job.ops[:place], Op(kind, name=self._name(kind[0])), *job.ops[place:]))

    def _add_job(self, depth: int) -> str:
        name = f"j{len(self._depths)}"
        self._depths[name] = depth
        agent = self._chance.choice(agents_of(depth))
        if self._chance.random() < 0.25:
            ops: tuple[Op, ...] = (self._converse(depth),)
        else:
            ops = self._ops(depth, self._chance.choice((1, 1, 2, 2, 3)))
        if self._chance.random() < 0.12:
            ops = (*ops, Op("fail", name=self._name("f")))
        self._jobs[name] = Job(agent, ops)
        return name

    def _ops(self, depth: int, count: int, *, inner: bool = False) -> tuple[Op, ...]:
        return tuple(self._op(depth, inner=inner) for _ in range(count))

    def _op(self, depth: int, *, inner: bool) -> Op:
        self._left -= 1
        [kind] = self._chance.choices(_KINDS, _WEIGHTS)
        is_last = self._left <= 0 and kind in ("gather", "delegate", "legs", "session")
        if is_last or (inner and kind in ("gather", "legs", "session")):
            kind = "tool"
        match kind:
            case "gather":
                count = self._chance.choice((2, 2, 3, 4))
                branches = [
                    self._ops(depth, self._chance.choice((1, 1, 2)), inner=True) for _ in range(count)
                ]
                return Op("gather", branches=tuple(branches))
            case "delegate" if depth < MAX_DEPTH:
                return self._delegate(depth)
            case "sleep":
                return Op("sleep", seconds=self._chance.choice((5.0, 40.0, 300.0)))
            case "step":
                return Op("step", request=Request(STEP, self._name("s")))
            case "ask" | "event" | "progress":
                return Op(kind, name=self._name(kind[0]))
            case "charge":
                return Op("charge", name=self._name("c"), request=None)
            case "legs":
                return self._legs()
            case "session":
                return self._session()
            case _:
                return self._tool()

    def _legs(self) -> Op:
        """Legs side by side, some of whose calls are equal, by one way of the run to be asked."""
        chance, name, way = self._chance, self._name("l"), self._chance.choice(_LEG_WAYS)
        shared = [self._tool(), Op("say", name=self._name("y"))]
        count = chance.choice((2, 2, 3, 4))
        legs = tuple(self._leg(way, shared, chance.choice((2, 3, 4))) for _ in range(count))
        self._left -= sum(map(len, legs))
        return Op("legs", name=name, way=way, branches=legs)

    def _leg(self, way: str, shared: Sequence[Op], count: int, *, inner: bool = False) -> tuple[Op, ...]:
        ops = [self._leg_op(way, shared, inner=inner) for _ in range(count)]
        if inner:  # own time behind a call decides whether its caller's clock is faster: no journal knows
            ops = [op for at, op in enumerate(ops) if at == 0 or op.kind != "nap" or ops[0].kind == "nap"]
        if way == "threads":  # a thread goes on before the call that it gave up has ended
            ops = [*(op.branches[0][0] if op.kind == "timed" else op for op in ops[:-1]), ops[-1]]
        return tuple(ops)

    def _leg_op(self, way: str, shared: Sequence[Op], *, inner: bool) -> Op:
        chance = self._chance
        [kind] = chance.choices(_LEG_KINDS, _LEG_WEIGHTS)
        is_thread = way == "threads"
        if (inner and kind in ("timed", "hedge")) or (is_thread and kind not in ("say", "tool", "timed")):
            kind = "tool" if is_thread else "say"
        match kind:
            case "tool":
                return shared[0] if chance.random() < 0.6 else self._tool()
            case "timed":
                ops = (
                    (self._tool(),)
                    if is_thread
                    else self._leg(way, shared, chance.choice((1, 2)), inner=True)
                )
                is_shielded = way in SHIELDING_WAYS and self._shields.random() < 0.4
                return Op(
                    "timed",
                    way=SHIELD if is_shielded else "",
                    seconds=chance.choice(_PAUSES),
                    branches=(ops,),
                )
            case "hedge":
                branches = [self._leg(way, shared, chance.choice((1, 1, 2)), inner=True) for _ in range(2)]
                return Op("hedge", branches=tuple(branches))
            case "stream":
                return Op("stream", name=self._name("y"), seconds=chance.choice((1, 1, 2, 3, 9)))
            case "nap":
                return Op("nap", seconds=chance.choice(_PAUSES))
            case "sleep":
                return Op("sleep", seconds=chance.choice((5.0, 40.0)))
            case "ask":
                return Op("ask", name=self._name("q"))
        if chance.random() < 0.3:
            return shared[1]
        return Op("say", name=self._name("y"), way=chance.choice(("", "mixed", "mixed")))

    def _session(self) -> Op:
        chance, rounds = self._chance, []
        shared = self._tool()
        for _ in range(chance.choice((2, 3, 4))):
            calls = [self._session_op(shared) for _ in range(chance.choice((1, 1, 1, 2)))]
            self._left -= len(calls)
            rounds.append(tuple(calls))
        name, way = self._name("u"), chance.choice(_SESSION_WAYS)
        return Op("session", name=name, way=way, seconds=chance.choice((0, 0, 0, 1, 2)), rounds=tuple(rounds))

    def _session_op(self, shared: Op) -> Op:
        kind = self._chance.choice(("say", "shared", "shared", "tool", "ask"))
        if kind == "shared":
            return shared
        return self._tool() if kind == "tool" else Op(kind, name=self._name(kind[0]))

    def _tool(self) -> Op:
        tool = self._chance.choice(list(TOOLS))
        return Op("tool", request=Request(tool, self._chance.choice(_ACCOUNTS), self._chance.choice((1, 2))))

    def _delegate(self, depth: int) -> Op:
        below = [name for name, at in self._depths.items() if at == depth + 1 and name in self._jobs]
        if below and self._chance.random() < 0.3:
            return Op("delegate", job=self._chance.choice(below))
        return Op("delegate", job=self._add_job(depth + 1))

    def _converse(self, depth: int) -> Op:
        rounds = []
        for _ in range(self._chance.choice((1, 1, 2))):
            calls = [
                self._delegate(depth) if depth < MAX_DEPTH and self._chance.random() < 0.3 else self._tool()
                for _ in range(self._chance.choice((1, 2, 3)))
            ]
            self._left -= len(calls)
            rounds.append(tuple(calls))
        return Op("converse", rounds=tuple(rounds))

    def _name(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}{self._names}"


def edited(program: Program, seed: int | str) -> Program:
    """The program after a deploy: in one job an operation is new, is gone, or has other arguments."""
    chance = random.Random(f"edit {seed}")
    name = chance.choice(sorted(program))
    ops = list(program[name].ops)
    place = chance.randrange(len(ops)) if ops else 0
    failing = [at for at, op in enumerate(ops) if op.kind == "fail"]
    way = "mend" if failing and chance.random() < 0.8 else chance.choice(("insert", "remove", "change"))
    if way == "mend":
        del ops[failing[0]]
    elif way == "insert" or not ops:
        ops.insert(place, Op("tool", request=Request("mail", chance.choice(_ACCOUNTS), 3)))
    elif way == "remove":
        del ops[place]
    else:
        ops[place] = _changed(ops[place], chance)
    return {**program, name: replace(program[name], ops=tuple(ops))}


def _changed(op: Op, chance: random.Random) -> Op:
    """The operation with other arguments, or one within it."""
    if op.request is not None and op.request.tool in TOOLS:
        return replace(op, request=replace(op.request, amount=op.request.amount + 6))
    for field in ("branches", "rounds"):
        groups: list[Any] = list(getattr(op, field))
        if groups:
            at = chance.randrange(len(groups))
            inner = list(groups[at])
            if inner:
                place = chance.randrange(len(inner))
                inner[place] = _changed(inner[place], chance)
            groups[at] = tuple(inner)
            return replace(op, **{field: tuple(groups)})
    if op.name:
        return replace(op, name=f"{op.name}b")
    return op


def smaller(program: Program) -> Iterator[Program]:
    """Programs with less in them, the smallest steps last."""
    for name in sorted(program, reverse=True):
        for ops in _smaller_ops(program[name].ops):
            yield _reachable({**program, name: replace(program[name], ops=ops)})


def _smaller_ops(ops: tuple[Op, ...]) -> Iterator[tuple[Op, ...]]:
    for at, op in enumerate(ops):
        before, after = ops[:at], ops[at + 1 :]
        yield before + after
        for inner in (*op.branches, *op.rounds):
            if op.kind in ("gather", "timed", "hedge"):
                yield before + inner + after
        for field in ("branches", "rounds"):
            groups = getattr(op, field)
            for place, group in enumerate(groups):
                rest = groups[:place] + groups[place + 1 :]
                if rest:
                    yield (*before, replace(op, **{field: rest}), *after)
                for less in _smaller_ops(group):
                    if less or field == "branches":
                        changed = (*groups[:place], less, *groups[place + 1 :])
                        yield (*before, replace(op, **{field: changed}), *after)


def _reachable(program: Program) -> Program:
    names, waiting = set[str](), [ROOT]
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting += delegations_of(program[name])
    return {name: job for name, job in program.items() if name in names}
