"""Doubts: a step was interrupted, and may have happened. Its check decides, else a person."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from meshwright.core.checks import CheckResult, StepCheck
from meshwright.core.step_events import StepChecked
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work.earlier_records import Earlier, read_steps
from meshwright.engine.work.paths import OpenStep, Scope
from meshwright.engine.work.people import Repetition, answer_result, check_key, repeat_key
from meshwright.engine.work.protocol import TOOL, StepKey, Work
from meshwright.engine.work.records import ProgressEvent
from meshwright.engine.work.waits import Waits

logger = logging.getLogger("meshwright.work")

_MAX_EVIDENCE_CHARS = 300  # in a question
_LOOK_SECONDS = 0.5  # between two looks whether a step has ended elsewhere
_STILL_RUNS = "%s of task %s may still run on a worker that lost its lease: its end is waited for"


class JournaledStep(OpenStep):
    """A step as the journal has it, which the code of the run may not come to."""

    def __init__(self, journal: Any, scope: Scope, key: StepKey, identity: str) -> None:
        super().__init__(journal, scope, key, None, repeatable=True, costly=False, paid=False)
        self._identity = identity

    @property
    def identity(self) -> str:
        """The identity that it had when it ran."""
        return self._identity


class CheckStep(OpenStep):
    """The step that runs the check of another, whose identity it has: both know the same idempotency key."""

    def __init__(self, checked: OpenStep, times: str) -> None:
        super().__init__(
            checked.journal,
            checked.scope,
            check_key(checked.key, times),
            checked.request,
            repeatable=True,
            costly=False,
            paid=False,
        )
        self._checked = checked

    @property
    def identity(self) -> str:
        """The identity of the step that it checks."""
        return self._checked.identity

    async def run(self, check: StepCheck) -> CheckResult:
        """The result of the check, as recorded where it ran before."""
        async with self:
            if not self.is_replayed:
                started = time.perf_counter()
                checked = await check()
                event = checked_event(self._checked.key.kind.removeprefix(TOOL), checked, started)
                self.finish(checked.model_dump(), [event])
        return CheckResult.model_validate(self.result)


def checked_event(name: str, checked: CheckResult, started: float) -> ProgressEvent:
    """The event of a check of a step, which started at a time of `perf_counter`."""
    payload = StepChecked(
        name=name,
        outcome=checked.outcome,
        evidence=checked.evidence,
        duration_ms=round((time.perf_counter() - started) * 1000, 3),
    )
    return ProgressEvent.from_payload(payload)


class Doubts:
    """The doubts of a run about steps that earlier claims began and did not end."""

    def __init__(self, runtime: Runtime, ref: ActorRef, work: Work, earlier: Earlier, waits: Waits) -> None:
        self._runtime = runtime
        self._ref = ref
        self._work = work
        self._earlier = earlier
        self._waits = waits

    def is_open(self, opened: OpenStep) -> bool:
        """Whether a step may have happened before, and is not simply run again."""
        is_checked = opened.check is not None and opened.was_begun
        return is_checked or opened.key.path in self._earlier.intents

    async def settle(self, opened: OpenStep) -> dict[str, Any] | None:
        """The record of a step that is not run again; None for one that is.

        A person is asked about a step that is not repeatable where its check cannot tell, or there is none.
        """
        path, outside, checked = opened.key.path, False, None
        times_begun = self._earlier.begun.get(path, 0) if path in self._earlier.intents else 0
        if opened.check is not None:
            if (late := await self._until_ended(opened)) is not None:
                return late
            # A check counts for one run of its step: of one without intents, for one claim.
            step = CheckStep(opened, f"c{times_begun}" if times_begun else f"k{self._work.claim}")
            checked = await step.run(opened.check)
            opened.is_ruled_out, outside = checked.outcome == "did_not_happen", step.outside
        if checked is not None and checked.outcome == "happened":
            return {"result": checked.result, **({"outside": True} if outside else {})}
        if opened.is_ruled_out or not times_begun:
            return None
        answer = await self._answer(opened, times_begun, checked)
        late = await self._until_ended(opened) if answer["approve"] else None
        return late if answer["approve"] else {"result": answer_result(opened.key, answer)}

    async def _until_ended(self, opened: OpenStep) -> dict[str, Any] | None:
        """Wait while a process that lost its claim still runs the step; returns the result that came late."""
        process = self._process_id(opened)
        waits = False
        while process:
            has_ended = await self._runtime.has_ended(process)
            records, _ = await read_steps(self._runtime, self._ref, self._work.steps, self._work.claim)
            ends = [record.value for record in records if is_end(record.value, opened.key.path)]
            if ends or has_ended:
                return next(({"result": end["result"]} for end in ends if "result" in end), None)
            if not waits:
                logger.warning(_STILL_RUNS, opened.key.kind, self._work.task_id)
            waits = True
            await asyncio.sleep(_LOOK_SECONDS)
        return None

    def _process_id(self, opened: OpenStep) -> str:
        return str(self._earlier.intents.get(opened.key.path, {}).get("process", ""))

    async def _answer(
        self, opened: OpenStep, times_begun: int, checked: CheckResult | None
    ) -> dict[str, Any]:
        """The answer of a person, who is asked each time that a step began and did not end."""
        question = repeat_key(opened.key, times_begun)
        if question.path in self._earlier.results:
            return self._earlier.results[question.path]["result"]
        name = opened.key.kind.removeprefix(TOOL)
        evidence = "" if checked is None else f" Its check cannot tell: {as_sentence(checked.evidence)}"
        reason = (
            f"{await self._state(opened, name)}{evidence} Check whether it took effect. May it run "
            "again? If not, the task goes on with the result or the reason that you give."
        )
        subject = {"kind": opened.key.kind, "request": opened.request}
        subject["step_id"] = self._work.step_id(opened.identity)
        began_at = self._earlier.intents[opened.key.path].get("started_at")
        if began_at is not None and await self._has_stopped(opened):
            subject["began_at"] = began_at
        if checked is not None:
            subject["check"] = checked.evidence
        await self._waits.wait(opened.scope, self._waits.question(question, reason, subject, Repetition))

    async def _has_stopped(self, opened: OpenStep) -> bool:
        process = self._process_id(opened)
        return not process or await self._runtime.has_ended(process)

    async def _state(self, opened: OpenStep, name: str) -> str:
        """Says whether a step that was interrupted may still run."""
        if await self._has_stopped(opened):
            what = "mesh or the program" if opened.scope.is_of_life else "mesh"
            return f"The {what} stopped while {name} was running."
        intent = self._earlier.intents[opened.key.path]
        place = f" in {intent['place']}" if "place" in intent else ""  # of an older version
        return (
            f"{name}, which began at {intent.get('started_at', '')}{place}, may still run: its worker lost "
            "its lease, and has not ended. If it ends with a result, the task goes on with that; a yes waits "
            "for its end, or for that of its worker."
        )


def is_end(value: dict[str, Any], path: str) -> bool:
    """Whether a record says that the step at a path has ended."""
    return value.get("ended") == path or (value.get("path") == path and "result" in value)


def as_sentence(evidence: str) -> str:
    """The first line of the evidence; the subject of the question has all of it."""
    line, _, more = evidence.strip().partition("\n")
    text = line[:_MAX_EVIDENCE_CHARS].rstrip()
    if more or len(line) > _MAX_EVIDENCE_CHARS:
        return f"{text} ..."
    return text if text.endswith((".", "!", "?")) else f"{text}."
