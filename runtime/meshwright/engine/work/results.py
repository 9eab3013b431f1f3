"""The order in which results reach code that the mesh does not know, the same when a run is resumed.

Steps that are known by their requests are counted among equal ones in the order in which they are asked for.
That order follows from the order in which the code got earlier results: so a run hands results out one by
one, each once the code has rested. A resumed run does so in their recorded order, each once the code has
asked for all that it asked for before. While a call waits for being given up once more, they come no
earlier than before: the code has clocks of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from meshwright.engine.work.threads import CodeThreads

_RESTING_TURNS = 20
"""Turns of the event loop after a result, in which the code may go on before the next one."""
_THREAD_SECONDS = 0.1
"""The same for code in threads, whose turns are not those of the loop: without that one of them has run."""
_MAX_THREAD_SECONDS = 2.0
"""The same at most: code may look again and again for what does not come."""
_PATIENCE_SECONDS = 5.0
"""Without a result or a question, until the recorded order counts as that of other code."""
_GIVE_UP_SECONDS = 1.0
"""The same, until a call is given up that was not before."""
_LATE_SECONDS = 2.0
"""A question that came so long after the first one may come as late again: the code sleeps by itself."""
_MAX_LATE_SECONDS = 60.0
"""So long a late question is waited for at most: code that depends on chance may not ask it."""

_PACE = 0.99
"""Of the seconds that a result took before: one that came just before a timeout of the code is not late."""


class GivenUp(NamedTuple):
    """A call that its caller gave up: after how long, and the pieces that had been streamed by then.

    `number` is that of its step.
    """

    seconds: float
    pieces: Sequence[Any] = ()
    number: int = 0


class RecordedOrder:
    """The order of a scope as earlier claims recorded it.

    `asked_at` has each branch with the number of results that the code had when it asked; `handed_out` the
    branches whose results it got, in order; `given_up` those that it gave up. `before` are the paths of
    steps whose results it had before the order began, and `answers` how many answers.
    """

    def __init__(self, before: Collection[str] = (), answers: int = 0) -> None:
        self.before = {*before}
        self.answers = answers
        self.asked_at: dict[str, int] = {}
        self.handed_out: dict[str, None] = {}
        self.given_up: dict[str, GivenUp] = {}
        self.seconds: dict[str, dict[str, float]] = {}
        """The results that came during a call that was given up, with the seconds from its begin to each."""
        self.late: dict[str, float] = {}
        """The branches that were asked for late, with the seconds since the order began."""
        self.made_calls: set[str] = set()
        """The calls that were given up before and then made."""

    def add(self, value: Mapping[str, Any]) -> None:
        """Add what a record says."""
        for name in value.get("made", ()):
            self.make(name)
        self.asked_at |= value.get("asked", {})
        self.handed_out |= dict.fromkeys(value.get("heard", ()))
        self.given_up |= {name: GivenUp(*fields) for name, fields in value.get("given_up", {}).items()}
        self.seconds |= value.get("seconds", {})
        self.late |= value.get("late", {})
        for name, place in value.get("placed", {}).items():
            self.place(name, place)
        self.answers = value.get("answers", self.answers)
        self.before |= {*value.get("before", ())}

    def make(self, name: str) -> None:
        """Note that a call which was given up before is made: its result has no place yet."""
        place = list(self.handed_out).index(name)
        del self.handed_out[name], self.given_up[name]
        self.made_calls.add(name)
        self.asked_at = {other: count - (count > place) for other, count in self.asked_at.items()}

    def place(self, name: str, place: int) -> None:
        """Note that the code got a result as the one behind `place` others."""
        names = list(self.handed_out)
        names.insert(place, name)
        self.handed_out = dict.fromkeys(names)

    def asked_after(self) -> dict[int, list[str]]:
        """The branches that the code asked for, by the number of results that it had."""
        names: dict[int, list[str]] = {}
        for name, count in self.asked_at.items():
            names.setdefault(count, []).append(name)
        return names

    def up_to(self, number: int, begun: Collection[str], ended: Collection[str]) -> dict[str, Any]:
        """The order, as a record says it, of the branches that have `begun` and `ended` by a step.

        Calls that were given up are among them if they came before it: the code asks for what is behind them
        as before, though a result before them is another.
        """
        heard: list[str] = []
        counts, goes_on = [0], True
        last = max((count for name, count in self.asked_at.items() if name in begun), default=0)
        for place, name in enumerate(self.handed_out):
            if name in self.given_up:
                is_before = name in self.asked_at and place < last
                stays = (goes_on or is_before) and self.given_up[name].number <= number
            else:
                stays = name in ended
                goes_on = goes_on and stays
            heard += [name] if stays else []
            counts.append(len(heard))
        names = {*begun, *heard}
        return {
            "asked": {
                name: counts[min(n, len(counts) - 1)] for name, n in self.asked_at.items() if name in names
            },
            "heard": heard,
            "given_up": {name: [*self.given_up[name]] for name in heard if name in self.given_up},
            "seconds": {name: self.seconds[name] for name in heard if name in self.seconds},
            "late": {name: it for name, it in self.late.items() if name in names},
            "before": [path for path in self.before if path in ended],
        }


class ResultOrder:
    """Hands out the results of one scope, and notes the order for its records.

    A branch is named as the code asks for it (`ask`); `hand_out` returns when its result may reach the code.
    Results of numbered steps beside it have their turn too, by their paths: what they are makes the code ask.
    Questions that came late are waited for if the code is the same as before.
    """

    def __init__(
        self, recorded: RecordedOrder, threads: CodeThreads, answers: int = 0, *, is_same_code: bool = False
    ) -> None:
        self.recorded = recorded
        self._threads = threads
        self._left = list(reversed(recorded.handed_out))
        """The recorded hand-outs that are still to come, the next one last."""
        self._required: set[str] = set()
        """The branches that the code asked for before the next hand-out, recorded or not, and lacks yet."""
        self._asked_after = recorded.asked_after()
        self._count = 0
        """The results that the code has by now, and the calls that it has given up."""
        self._asked: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._asks_at_last = 0
        self._is_resting = False
        self._waiting: list[asyncio.Future[None]] = []
        self._unsaved_asked: dict[str, int] = {}
        self._unsaved_heard: list[str] = []
        self._unsaved_given_up: dict[str, GivenUp] = {}
        self._unsaved_seconds: dict[str, dict[str, float]] = {}
        self._unsaved_late: dict[str, float] = {}
        self._unsaved_made: list[str] = []
        self._unsaved_placed: dict[str, int] = {}
        self._made_calls = recorded.made_calls.difference(recorded.handed_out)
        """The calls that were given up before and are made, until the code has their results."""
        self._waiting_made: set[str] = set()
        """Those among them whose results are there."""
        self._due: set[str] = set()
        """Those among them that come now, since the code asks for nothing else."""
        self._began_at = time.monotonic()
        self._is_same_code = is_same_code
        self._times: dict[str, float] = {}
        """When the code got each result."""
        self._unsaved_answers = answers
        self.changes = 0
        """Counts up with each question, result and call that is given up."""
        self.reading_on: set[str] = set()
        """The calls that were given up while they went on, for their cost."""
        self.to_give_up: dict[str, float] = {}
        """When the code asked once more for each call that waits for being given up as before."""
        self._require()

    def ask(self, name: str) -> None:
        """Note that the code asks for a branch now."""
        self._asked[name] = self._count
        self._required.discard(name)
        if name not in self.recorded.asked_at:
            self._unsaved_asked[name] = self._count
            if (seconds := time.monotonic() - self._began_at) > _LATE_SECONDS:
                self._unsaved_late[name] = round(seconds, 1)
        if name in self.recorded.given_up:
            self.to_give_up[name] = time.monotonic()
        self._change()

    def begin(self, name: str, number: int) -> None:
        """Note the number of the step that a branch begins with."""
        self._numbers[name] = number

    def begin_step(self, path: str) -> None:
        """Note that the code begins a step that is numbered, whose result is handed out by its path."""
        self._asked[path] = self._count
        if path in self.recorded.given_up:
            self.to_give_up[path] = time.monotonic()
        self._change()

    async def hand_out(self, name: str) -> None:
        """Return once the result of a branch is the next to reach the code, and count it as there."""
        await self.turn(name)
        self._note(name)

    async def turn(self, name: str) -> None:
        """Return once it is the turn of a branch."""
        while self._is_resting or not self._is_due(name):
            self._waiting_made |= self._made_calls & {name}
            await self._wait()
        if self.to_give_up:
            await self._pace(name)
        self._is_resting = True
        try:
            await self._rest()
        finally:
            self._is_resting = False
            self._change()

    async def turn_to_give_up(self, name: str) -> None:
        """Return once a branch may be given up: one that was not before waits for its turn for a second.

        The code may ask for what it asked for before only behind it, where no record says that it came first.
        """
        if name in self.recorded.handed_out:
            await self.turn(name)
            return
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS):
                await self.turn(name)
        except TimeoutError:
            self._due.add(name)

    def make(self, name: str) -> None:
        """Note that a call which was given up before is made: the others wait no longer for its turn.

        Its result comes behind the recorded ones, or once the code waits for it alone.
        """
        self.recorded.make(name)
        self._unsaved_made.append(name)
        self._made_calls.add(name)
        self._asked_after = self.recorded.asked_after()
        if name in self._left:
            self._left.remove(name)
        else:  # the others went on without it, and it was counted
            self._count -= 1
        self._require()
        self._change()

    def has_result(self, name: str) -> bool:
        """Whether the code got the result of a branch before."""
        return name in self.recorded.handed_out and name not in self.recorded.given_up

    def give_up(self, name: str, seconds: float, pieces: Sequence[Any]) -> None:
        """Note that the caller of a branch has given it up."""
        if name not in self.recorded.given_up:
            self._unsaved_given_up[name] = GivenUp(seconds, [*pieces], self._numbers.get(name, 0))
            began = time.monotonic() - seconds
            during = {other: round(at - began, 3) for other, at in self._times.items() if at >= began}
            if during:
                self._unsaved_seconds[name] = during
        self._note(name)

    def seconds_to_come(self) -> float:
        """How long the code may take to ask for what it asked for before and has not yet: 0 if no longer."""
        if not self._is_same_code:
            return 0.0
        late = [seconds for name, seconds in self.recorded.late.items() if name not in self._asked]
        last = min(max(late, default=0.0), _MAX_LATE_SECONDS)
        return max(0.0, self._began_at + last - time.monotonic())

    @property
    def has_news(self) -> bool:
        """Whether a call was given up since the last record."""
        return bool(self._unsaved_given_up)

    def take_news(self, *, given_up: bool) -> dict[str, Any]:
        """Takes the news of the order, for the next record; those of calls given up only if asked."""
        left = dict[str, GivenUp]() if given_up else self._unsaved_given_up
        news: dict[str, Any] = {
            "asked": self._unsaved_asked,
            "heard": [name for name in self._unsaved_heard if name not in left],
            "given_up": {name: [*it] for name, it in self._unsaved_given_up.items() if name not in left},
            "seconds": {name: it for name, it in self._unsaved_seconds.items() if name not in left},
            "late": self._unsaved_late,
            "made": self._unsaved_made,
            "placed": {name: it for name, it in self._unsaved_placed.items() if name not in left},
        }
        self._unsaved_asked, self._unsaved_late = dict[str, int](), dict[str, float]()
        self._unsaved_made = list[str]()
        self._unsaved_placed = {name: it for name, it in self._unsaved_placed.items() if name in left}
        self._unsaved_heard = [name for name in left if name not in self._unsaved_placed]
        self._unsaved_given_up = {**left}
        self._unsaved_seconds = {name: it for name, it in self._unsaved_seconds.items() if name in left}
        if any(news.values()) and self._unsaved_answers:
            news["answers"], self._unsaved_answers = self._unsaved_answers, 0
        return {name: field for name, field in news.items() if field}

    def _is_due(self, name: str) -> bool:
        if name in self._due:
            return True
        return not self._required and (not self._left or self._left[-1] == name)

    def _note(self, name: str) -> None:
        if name in self.recorded.handed_out:
            if name in self._left:
                self._left.remove(name)
        elif name in self._due:
            self._place(name)
        else:
            self._unsaved_heard.append(name)
        self._made_calls.discard(name)
        self._waiting_made.discard(name)
        self._due.discard(name)
        self.to_give_up.pop(name, None)
        self._times[name] = time.monotonic()
        self._count += 1
        self._asks_at_last = len(self._asked)
        self._require()
        self._change()

    def _place(self, name: str) -> None:
        """Note the place of a result among the recorded ones: what the code has not asked for comes later."""
        self.recorded.place(name, self._count)
        self._unsaved_placed[name] = self._count
        if name in self._unsaved_given_up:
            self.recorded.given_up[name] = self._unsaved_given_up[name]
        later = {
            other: count + 1
            for other, count in self.recorded.asked_at.items()
            if count >= self._count and other not in self._asked
        }
        self.recorded.asked_at |= later
        self._unsaved_asked |= later
        self._asked_after = self.recorded.asked_after()

    def _require(self) -> None:
        """Note what the code asks for before the next recorded hand-out."""
        names = self._asked_after.pop(self._count, ())
        self._required |= {name for name in names if name not in self._asked}

    async def _pace(self, name: str) -> None:
        """Return about as late in the calls that are still to be given up as a result came before."""
        seconds = self.recorded.seconds
        waits = (at + _PACE * seconds.get(call, {}).get(name, 0.0) for call, at in self.to_give_up.items())
        due = max(waits)
        await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _rest(self) -> None:
        """Let the code go on for some turns; code in threads until it rests, or has asked for something.

        All of the turns, though it asks meanwhile: that may follow from a result before the last one, and
        the code may go another way by the last one alone than by two at once.
        """
        for _ in range(_RESTING_TURNS):
            await asyncio.sleep(0)
        if not self._threads:
            return
        loop = asyncio.get_running_loop()
        began = rested = loop.time()
        seen: tuple[bytes, ...] = ()
        while len(self._asked) == self._asks_at_last and loop.time() < min(
            rested + _THREAD_SECONDS, began + _MAX_THREAD_SECONDS
        ):
            await asyncio.sleep(_THREAD_SECONDS / 50)
            has_moved, seen = self._threads.have_moved(seen)
            if has_moved:
                rested = loop.time()

    async def _wait(self) -> None:
        """Wait for a change; without one `_go_on`."""
        changed = asyncio.get_running_loop().create_future()
        self._waiting.append(changed)
        changes = self.changes
        try:
            given_up = [self.recorded.given_up[name].seconds for name in self.to_give_up]
            async with asyncio.timeout(_PATIENCE_SECONDS + max([self.seconds_to_come(), *given_up])):
                await changed
        except TimeoutError:
            if changes == self.changes:
                self._go_on()
        finally:
            if changed in self._waiting:
                self._waiting.remove(changed)

    def _go_on(self) -> None:
        """Wait no longer for calls that were given up before; without those the code is another by now.

        Code may not ask again for what it gave up, where two results came at nearly the same time. It may
        ask for nothing else until it has the result of such a call.
        """
        if self._waiting_made and (self._left or self._required):
            self._due |= self._waiting_made
            self._change()
            return
        optional = self.recorded.given_up.keys() - self._asked.keys()
        if self._required.isdisjoint(optional) and not optional.intersection(self._left[-1:]):
            self._left.clear()
            self._required.clear()
            self._asked_after.clear()
            return
        self._required -= optional
        while self._left and self._left[-1] in optional:
            self._left.pop()
            self._count += 1
            self._require()
        self._change()

    def _change(self) -> None:
        self.changes += 1
        waiting, self._waiting = self._waiting, list[asyncio.Future[None]]()
        for changed in waiting:
            if not changed.done():
                changed.set_result(None)
