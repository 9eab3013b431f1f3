"""Checks after each walk that the promises held, as rules over facts that are known outside of the mesh."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from meshwright.core.messages import ENDED
from tests.support.walker.facts import Finding
from tests.support.walker.history import History
from tests.support.walker.money import Money
from tests.support.walker.programs import READ, TOOLS, Request, delegations_of
from tests.support.walker.replays import Replays
from tests.support.walker.world import receipt_of

_FINAL = {f"task.{status}" for status in ENDED}


def findings_of(history: History) -> list[Finding]:
    """All that a walk shows that must not be, each kind once."""
    found: dict[str, Finding] = {}
    for finding in _Oracle(history).findings():
        found.setdefault(finding.kind, finding)
    return list(found.values())


class _Oracle(Money, Replays):
    """All rules."""

    def findings(self) -> Iterator[Finding]:
        yield from self._keys()
        yield from self._repeats()
        yield from self._children()
        yield from self._results()
        yield from self._approvals()
        yield from self._ends()
        yield from self._cancels()
        yield from self._money()
        yield from self._outcome_costs()
        yield from self._purses()
        yield from self._files()
        yield from self._privacy()
        yield from self._starts_over()
        yield from self._calls_again()
        yield from self._other_results()
        yield from self._rows()

    # Rules

    def _keys(self) -> Iterator[Finding]:
        """A key belongs to one request for ever."""
        owners: dict[str, set[tuple[str, Request]]] = defaultdict(set)
        for effect in self._history.world.effects:
            owners[effect.key].add((effect.task_id, effect.request))
        for key, requests in owners.items():
            if len(requests) > 1:
                names = " and ".join(
                    f"{request} of {self._name(task_id)}" for task_id, request in sorted(requests)
                )
                task_id = next(iter(requests))[0]
                yield Finding(
                    "one key, two requests",
                    self._shape(task_id),
                    f"the key ...{key[-4:]} was sent with {names}",
                )

    def _repeats(self) -> Iterator[Finding]:
        """An effect happens at most once for each request, unless a person said so."""
        for (task_id, request), effects in self._effects.items():
            if request.tool == READ:
                continue
            kind = TOOLS.get(request.tool)
            if kind is not None and kind.idempotent:
                keys = Counter(effect.key for effect in effects)
                attempts = sum(attempt.continues is None for attempt in self._tasks[task_id].attempts)
                allowed = max(self._beginnings(task_id), attempts)
                count, word = len(keys), "keys"
            else:
                allowed, count, word = self._beginnings(task_id), len(effects), "times"
            allowed = self._wanted_or_changed(task_id, request) * allowed
            allowed += self._yes(task_id, request, "doubt") + sum(effect.is_lost for effect in effects)
            if count > allowed:
                text = f"{request} of {self._name(task_id)} was done {count} {word}, {allowed} allowed"
                yield Finding(
                    f"repeated effect ({'keyed' if word == 'keys' else 'once'})", self._shape(task_id), text
                )

    def _wanted_or_changed(self, task_id: str, request: Request) -> int:
        """How often an effect is asked for by code, or by people who changed arguments: in a fork too."""
        origins = self._origins(task_id)
        changed = sum(
            answer.task_id in origins and answer.request == request and bool(answer.value.get("arguments"))
            for answer in self._history.answers
            if answer.is_taken and isinstance(answer.value, dict)
        )
        return max(self._wanted(task_id, request), changed)

    def _origins(self, task_id: str) -> list[str]:
        """A task, and those that it was forked from."""
        origins, fork = [task_id], self._tasks[task_id].forked_from
        while fork is not None:
            origins.append(fork.task_id)
            fork = self._tasks[fork.task_id].forked_from
        return origins

    def _children(self) -> Iterator[Finding]:
        """A task delegates each request as often as its code asks for it."""
        children: Counter[tuple[str, str]] = Counter()
        for task_id, view in self._tasks.items():
            if view.parent_task_id in self._tasks:
                children[view.parent_task_id, self._history.job_of(task_id)] += 1
        for (task_id, job), count in children.items():
            own = self._history.job_of(task_id)
            wanted = max(delegations_of(p[own])[job] if own in p else 0 for p in self._history.programs)
            attempts = sum(attempt.continues is None for attempt in self._tasks[task_id].attempts)
            allowed = wanted * max(self._beginnings(task_id), attempts)
            if count > allowed:
                text = f"{self._name(task_id)} delegated {job} {count} times, {allowed} allowed"
                yield Finding("delegated too often", self._shape(task_id), text)

    def _results(self) -> Iterator[Finding]:
        """Each result is that of its own request, and counts for one."""
        for strange in self._history.world.strange:
            yield Finding(f"wrong {strange.partition(':')[0]}", self._shape(), strange)
        for task_id, view in self._tasks.items():
            if view.outcome is None or not view.outcome.success:
                continue
            receipts = Counter(_receipts(view.outcome.result))
            for receipt, count in receipts.items():
                if count > 1:
                    text = f"{self._name(task_id)} has the receipt {receipt!r} {count} times"
                    yield Finding("one receipt, two requests", self._shape(task_id), text)

    def _approvals(self) -> Iterator[Finding]:
        """One yes, one effect: of its own task and call."""
        for (task_id, request), effects in self._effects.items():
            kind = TOOLS.get(request.tool)
            if kind is None or not kind.approval:
                continue
            if kind.approval == "once":
                said = any(
                    answer.task_id == task_id
                    and answer.request is not None
                    and answer.request.tool == request.tool
                    for answer in self._history.answers
                    if answer.is_taken and answer.subject == "approval" and answer.value.get("approve")
                )
                if not said:
                    text = f"{request} of {self._name(task_id)} was done, and nobody said yes to any of it"
                    yield Finding("effect without a yes (once)", self._shape(task_id), text)
                continue
            count = len({effect.key for effect in effects}) if kind.idempotent else len(effects)
            yes = self._yes(task_id, request, "approval", "doubt")
            if count > yes:
                text = f"{request} of {self._name(task_id)} was done {count} times on {yes} yes"
                yield Finding("effects beyond their yes", self._shape(task_id), text)

    def _ends(self) -> Iterator[Finding]:
        """Each accepted task ends once, or waits for something that can still come."""
        for task_id, view in self._tasks.items():
            if view.outcome is None or view.status not in ENDED:
                waits = sorted({self._wait_text(wait) for wait in view.waits})
                waiting = ", ".join(waits) or "nothing"
                text = f"{self._name(task_id)} is {view.status} for ever, and waits for {waiting}"
                kinds = ", ".join(sorted({wait.kind for wait in view.waits})) or view.status
                yield Finding(f"never ends ({kinds})", self._shape(task_id), text)
        for task_id in self._history.submitted:
            if task_id not in self._tasks:
                yield Finding("accepted and lost", self._shape(), f"{task_id} is not there")
        for question in self._history.inbox:
            if question.task_id and self._tasks[question.task_id].outcome is not None:
                text = f"{self._name(question.task_id)} has ended: {question.question!r}"
                yield Finding("question of an ended task", self._shape(question.task_id), text)
        ends = Counter(
            (event.task_id, event.fields.get("generation", 1))
            for event in self._history.events
            if event.event_type in _FINAL
        )
        for (task_id, generation), count in ends.items():
            if count > 1 and task_id is not None:
                text = f"{self._name(task_id)} ended {count} times in generation {generation}"
                yield Finding("more than one outcome", self._shape(task_id), text)

    def _wait_text(self, wait: object) -> str:
        child = getattr(wait, "child_task_id", None)
        if child is None or child not in self._tasks:
            return str(getattr(wait, "kind", ""))
        return f"task {self._name(child)}, which is {self._tasks[child].status}"

    def _cancels(self) -> Iterator[Finding]:
        """After a cancel that was confirmed nothing of the task begins any more, unless it is retried.

        A task below it that a person had worked on again is left alone: no other waits for it.
        """
        for task_id, count, act in self._history.cancels:
            below = {at for at, chain in self._above.items() if task_id in chain}
            again = [
                r.act for r in self._history.retries if {r.task_id} & {*below, *self._above.get(task_id, ())}
            ]
            ends = min((at for at in again if at >= act), default=10**9)
            freed = {r.task_id for r in self._history.retries if r.act <= act} - {task_id}
            for effect in self._history.world.effects[count:]:
                chain = self._above.get(effect.task_id, ())
                if freed & {at for at in chain if at in below}:
                    continue
                is_read = effect.request.tool == READ
                if effect.task_id in below and effect.at_act < ends and not is_read:
                    done = f"{effect.request} of {self._name(effect.task_id)}"
                    text = f"{done} was done after the cancel of {self._name(task_id)}"
                    yield Finding("effect after a cancel", self._shape(task_id), text)

    def _files(self) -> Iterator[Finding]:
        """An outcome has each file once, but for those of delegated tasks, which may have the same names."""
        for task_id, view in self._tasks.items():
            job = self._history.job_of(task_id)
            if any(delegations_of(program[job]) for program in self._history.programs if job in program):
                continue
            names = [file.name for file in view.outcome.files] if view.outcome else []
            if len(names) != len(set(names)):
                text = f"{self._name(task_id)} has the files {', '.join(names)}"
                yield Finding("one file twice", self._shape(task_id), text)

    def _privacy(self) -> Iterator[Finding]:
        for leak in self._history.leaks:
            yield Finding("seen by another tenant", self._shape(), leak)
        for answer in self._history.answers:
            if answer.is_taken and answer.by == "eve":
                yield Finding("answer of a stranger", self._shape(), f"{answer.task_id} took it")


def _receipts(result: object) -> Iterator[str]:
    """The receipts of a task's own calls in its result."""
    if isinstance(result, str):
        if receipt_of(result) is not None:
            yield result
    elif isinstance(result, list):
        for item in result:
            yield from _receipts(item)
    elif isinstance(result, dict):
        yield from _receipts(result.get("results"))
