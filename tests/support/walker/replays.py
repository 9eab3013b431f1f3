"""Rules about code that the mesh does not know: it is replayed as it ran, and pays for each call once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from tests.support.walker.asks import Hearing
from tests.support.walker.facts import Facts, Finding

_BREAK_OFF = {"Cancelled", "DeadlineExceeded"}
_STARTS_OVER = {"ReplayMismatch", "RestartDenied"}


class Replays(Facts):
    """The rules, over the facts of a walk."""

    def _starts_over(self) -> Iterator[Finding]:
        """No work starts over while its code is the same."""
        if len(self._history.programs) > 1:
            return
        for task_id, view in self._tasks.items():
            again = any(retry.task_id in self._above[task_id] for retry in self._history.retries)
            for error in self._errors(task_id):
                if error in _STARTS_OVER and not (again and error == "RestartDenied"):
                    text = f"{self._name(task_id)} has {error}, and nobody changed its code"
                    texts = [attempt.error.message for attempt in view.attempts if attempt.error is not None]
                    yield Finding("starts over", self._shape(task_id, error), f"{text}: {'; '.join(texts)}")

    def _errors(self, task_id: str) -> list[str]:
        view = self._tasks[task_id]
        ends = (*view.attempts, *([view.outcome] if view.outcome else ()))
        return [end.error.type for end in ends if end.error is not None]

    def _is_steady(self, task_id: str) -> bool:
        """Whether a task went on with one journal, from its beginning to its end."""
        view = self._tasks.get(task_id)
        if view is None or view.forked_from is not None or len(self._history.programs) > 1:
            return False
        beginnings = sum(attempt.continues is None for attempt in view.attempts)
        retried = any(retry.task_id in self._above[task_id] for retry in self._history.retries)
        return beginnings == 1 and not retried and not _BREAK_OFF & {*self._errors(task_id)}

    def _calls_again(self) -> Iterator[Finding]:
        """Each call of a model is made once, for each place that asks it."""
        asks = self._history.world.asks
        made = Counter((call.task_id, call.text) for call in asks.calls)
        spare = Counter((call.task_id, call.text) for call in asks.calls if call.may_repeat)
        for (task_id, text), count in made.items():
            places = {place for asker, place in asks.places[text] if asker == task_id}
            allowed = len(places) + spare[task_id, text]
            if count > allowed and self._is_steady(task_id):
                found = f"{self._name(task_id)} asked {text!r} {count} times, {allowed} allowed"
                yield Finding("call made again", self._shape(task_id), found)

    def _other_results(self) -> Iterator[Finding]:
        """Code that is replayed gets at each place what it got there before."""
        places: dict[tuple[str, str], list[Hearing]] = defaultdict(list)
        for hearing in self._history.world.asks.hearings:
            places[hearing.task_id, hearing.place].append(hearing)
        for (task_id, place), hearings in places.items():
            for before, after in pairwise(hearings):
                if before.value != after.value and not before.may_change and self._is_steady(task_id):
                    text = f"{self._name(task_id)} got {before.value!r} at {place}, and {after.value!r} as it"
                    yield Finding("other result", self._shape(task_id), f"{text} was replayed")

    def _rows(self) -> Iterator[Finding]:
        """The ledger has each call that a provider billed, those too that their callers gave up."""
        rows = {item.key: item.calls for item in self._history.costs.items}
        calls = Counter(call.task_id for call in self._history.world.asks.calls if not call.may_repeat)
        for task_id, count in calls.items():
            if task_id not in self._tasks or _BREAK_OFF & {*self._errors(task_id)}:
                continue
            if rows.get(task_id, 0) < count:
                text = f"the ledger has {rows.get(task_id, 0)} calls of {self._name(task_id)}, of {count}"
                yield Finding("call without a row", self._shape(task_id), text)
