"""The check of a resumed run: it takes the recorded steps again, else a new attempt begins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn
from weakref import WeakMethod

from meshwright.core.checks import CheckResult
from meshwright.core.errors import AgentError, MeshError, ReplayMismatch, RestartDenied
from meshwright.engine.work.cancels import HeldCancels
from meshwright.engine.work.doubts import as_sentence
from meshwright.engine.work.earlier_records import Earlier
from meshwright.engine.work.paths import OpenStep, Paths, Scope
from meshwright.engine.work.people import QUESTIONS, RESTART, Approval
from meshwright.engine.work.protocol import DELEGATE, TOOL, StepKey, Work
from meshwright.engine.work.results import ResultOrder
from meshwright.engine.work.waits import Waits

_GIVE_UP_SECONDS = 10.0
"""The time by which a call is given up later than before, at most."""
_LOOK_SECONDS = 0.02
_REPEATABLE = "The code between two calls must be repeatable: no times and random values in what it asks"


_OTHER_CODE = "The agent's code has changed since this task started, so the task can't go on where it was"
_OTHER_STEPS = (
    "The agent's code takes other steps than before, though its file is the same: what it asks for depends "
    "on times, random values or other programs. So the task can't go on where it was"
)


_CHECK_WORDS = {
    "happened": "says that it happened",
    "did_not_happen": "says that it did not happen",
    "unknown": "cannot tell",
}
_AskCheck = Callable[[Mapping[str, Any]], Awaitable[CheckResult | None]]


class Replay:
    """Compares the steps that a run takes with the recorded ones."""

    def __init__(
        self,
        work: Work,
        earlier: Earlier,
        paths: Paths,
        waits: Waits,
        cancels: HeldCancels,
        once: Collection[OpenStep],
        ask_check: WeakMethod[_AskCheck],
    ) -> None:
        self.ended: MeshError | None = None
        """Why the journal can't be followed: the run ends with that, whatever its code makes of it."""
        self.is_closed = False
        """Whether the run is over."""
        self.is_mismatched = False
        """Whether the code asks for something else at a recorded step."""
        self._work = work
        self._earlier = earlier
        self._paths = paths
        self._waits = waits
        self._cancels = cancels
        self._once = once
        self._ask_check = ask_check  # weak: its journal has this replay
        self._asking: asyncio.Lock | None = None
        self._undecided: ReplayMismatch | None = None
        """A mismatch that nobody waits for any more: its caller gave the call up before it was decided."""
        self._outcomes: list[tuple[dict[str, Any], CheckResult | None]] | None = None
        """The results of the checks of steps that a new attempt would repeat, once they were asked."""

    @property
    def is_ending(self) -> bool:
        """Whether the run is over, or will be: no result reaches its code any more."""
        return self.is_closed or self._waits.suspended is not None or self.ended is not None

    def check_goes_on(self) -> None:
        """Raise what has ended the run, or suspended it, where its code has caught that or is left behind."""
        if self._waits.suspended is not None:
            raise self._waits.suspended
        if self.ended is not None:
            raise self.ended
        if self.is_closed:  # nobody would count what it costs, and a cancelled task would change something
            remedy = "Take run and its functions from the arguments of each run"
            raise AgentError("The run of this call has ended, so it is not made", remedy=remedy)

    async def check_begins(self, scope: Scope, key: StepKey) -> None:
        """Raise ReplayMismatch where a step that may have begun was another, or was in another branch.

        A call that its caller gave up waits here until it is given up once more.
        """
        if self._undecided is not None and not self._is_in_once(scope):
            await self._end_replay(scope, self._undecided)
        if scope.order is not None:
            if scope.branch in scope.order.recorded.given_up:
                await self.wait_given_up(scope.order, scope.branch)
            self._cancels.deliver()
        if key.path in self._earlier.waits:
            await self.check(scope, key, self._earlier.waits[key.path].model_dump())
        if key.path in self._earlier.intents:
            await self.check(scope, key, self._earlier.intents[key.path])
        elif self._may_repeat(scope, key) and await self._repeats_a_change(scope, key):
            why_not = "was in a branch that began with something else before"
            await self._end_replay(scope, self._mismatch(key, why_not))
        elif scope.by_request and not (scope.is_of_life or self._is_old(scope, key)):
            await self._check_claimed(scope, key)

    async def _repeats_a_change(self, scope: Scope, key: StepKey) -> bool:
        with self._waits.busy():
            return await self._paths.repeats_a_change(scope, key)

    def _is_old(self, scope: Scope, key: StepKey) -> bool:
        """Whether an earlier claim began a step, or the one that a question of the journal is about."""
        return self._earlier.has_begun(key.path) or not key.path.startswith(scope.prefix)

    def _may_repeat(self, scope: Scope, key: StepKey) -> bool:
        return key.nth > 1 and not scope.is_of_life and key.path not in self._earlier.waits

    async def wait_given_up(self, order: ResultOrder, name: str) -> None:
        """Wait until the caller of a branch, or of a step, gives it up again.

        Returns if it does not: the code needs its result now, so it is made.
        """
        self._cancels.deliver()
        seconds = order.recorded.given_up[name].seconds
        try:
            with self._waits.busy():
                await asyncio.sleep(seconds + _GIVE_UP_SECONDS)
        finally:
            order.to_give_up.pop(name, None)
        order.make(name)

    async def _check_claimed(self, scope: Scope, key: StepKey) -> None:
        """Raise ReplayMismatch where a step asks for something new in place of what is recorded."""
        with self._waits.busy():
            path = await self._paths.unclaimed(scope)
        self.check_goes_on()
        if path is not None:
            place = f"{self._earlier.number_at(path)} ({self._earlier.step_at(path)!r}, {path})"
            why_not = f"is new ({key.kind!r}), and the recorded step {place} is not asked for now"
            await self._end_replay(scope, self._mismatch(key, f"{why_not}. {_REPEATABLE}"))

    async def check(self, scope: Scope, key: StepKey, record: dict[str, Any]) -> None:
        """Raise ReplayMismatch where the run does something else now; ask first where that may do harm."""
        if (record["kind"], record["hash"]) != (key.kind, key.hash):
            is_now = f"is {key.kind!r} or asks for something else now"
            why_not = f"was {record['kind']!r} before, and {is_now}"
            await self._end_replay(scope, self._mismatch(key, why_not))

    async def decide(self) -> None:
        """Return if the run may end as it does. Raises what ends it where its code was not repeatable."""
        if self._undecided is not None and not self.is_ending:
            await self._end_replay(self._paths.here(), self._undecided)
        if self.ended is not None:
            raise self.ended

    async def _end_replay(self, scope: Scope, mismatch: ReplayMismatch) -> NoReturn:
        self.is_mismatched, self._undecided = True, None
        try:
            await self._ask_to_end(scope, mismatch)
        except asyncio.CancelledError:
            self._undecided = mismatch  # the call is given up, but the code still differs: others ask
            raise
        self.ended = mismatch
        raise mismatch

    async def _ask_to_end(self, scope: Scope, mismatch: ReplayMismatch) -> None:
        # These may have taken effect: a new attempt would do them again.
        delegated = [wait.kind for wait in self._earlier.waits.values() if wait.kind == DELEGATE]
        await self._until_ended(scope)
        self.check_goes_on()
        intents = [*self._earlier.intents.values()]
        if intents or delegated:
            why = _OTHER_STEPS if self._work.is_same_code else _OTHER_CODE
            path = f"{QUESTIONS}.{len(intents) + len(delegated)}"
            self._asking = self._asking or asyncio.Lock()
            async with self._asking:  # steps side by side ask once
                self.check_goes_on()
                once, checks = await self._checked(intents, path)
                if not once and not delegated:
                    return
            await self.ask_restart(scope, [*once, *delegated], path, why, checks)

    async def until_decided(self, scope: Scope) -> None:
        """Wait while it is decided whether the run ends, before a step that may not be repeated begins."""
        while self.is_mismatched and not (self.is_ending or self._is_in_once(scope)):
            if self._undecided is not None:
                await self._end_replay(scope, self._undecided)
            await asyncio.sleep(_LOOK_SECONDS)
        self.check_goes_on()

    async def _until_ended(self, scope: Scope) -> None:
        """Wait for steps under way that may not be repeated: their checks would come too early.

        Not within such a step, which another may wait for.
        """
        with self._waits.busy():
            while self._once and not self._is_in_once(scope):  # noqa: ASYNC110 no event for each step
                await asyncio.sleep(_LOOK_SECONDS)

    def _is_in_once(self, scope: Scope) -> bool:
        return any(step in self._once for step in scope.steps_around())

    def _mismatch(self, key: StepKey, why_not: str) -> ReplayMismatch:
        return _mismatch(f"step {key.path} of task {self._work.task.task_id} {why_not}")

    async def _checked(self, intents: Sequence[dict[str, Any]], path: str) -> tuple[list[str], str]:
        """The kinds of the steps that may have happened, and the words of their checks about them.

        The checks are asked once, before the question at the path is.
        """
        if path in self._earlier.results or path in self._earlier.waits:
            return [intent["kind"] for intent in intents], ""
        if self._outcomes is None:
            with self._waits.busy():
                ask = self._ask_check()
                assert ask is not None
                self._outcomes = [(intent, await ask(intent)) for intent in intents]
        once: list[str] = []
        checks: list[str] = []
        for intent, checked in self._outcomes:
            ended = intent["path"] in self._earlier.results
            if checked is not None and checked.outcome == "did_not_happen" and not ended:
                continue
            once.append(intent["kind"])
            if checked is not None:
                name, says = intent["kind"].removeprefix(TOOL), _CHECK_WORDS[checked.outcome]
                evidence = f": {as_sentence(checked.evidence)}" if checked.evidence.strip() else "."
                checks.append(f"that of {name} {says}{evidence}")
        return once, " ".join(checks)

    async def ask_restart(
        self, scope: Scope, steps: Sequence[str], path: str, why: str, checks: str = ""
    ) -> None:
        """Ask whether the task may start over, and repeat these steps. Raises RestartDenied."""
        key = StepKey(path=path, number=0, kind=RESTART, hash="")
        answered = self._earlier.results.get(key.path)
        if answered is None:
            step_names = ", ".join(step.removeprefix(TOOL) for step in steps)
            evidence = f" Their checks were asked: {checks}" if checks else ""
            reason = (
                f"{why}. May it start over and repeat these steps: {step_names}?{evidence} "
                "If not, it ends here."
            )
            subject = {"kind": RESTART, "steps": list(steps), **({"check": checks} if checks else {})}
            await self._waits.wait(scope, self._waits.question(key, reason, subject, Approval))
        elif not answered["result"]["approve"]:
            reason = answered["result"].get("reason")
            self.ended = RestartDenied(
                f"{why}: {answered.get('answered_by') or 'a person'} denied that"
                f"{f': {reason}' if reason else ''}. Nothing was repeated",
                remedy="Retry it with the former code, or submit a new task for what is still to be done",
            )
            raise self.ended


def _mismatch(message: str) -> ReplayMismatch:
    remedy = "a new attempt starts with an empty journal, and gets the answers of people"
    return ReplayMismatch(message, remedy=remedy)
