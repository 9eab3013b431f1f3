"""The steps that an agent's code takes itself: its own functions, waits, questions to people, reports."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal, NoReturn, TypeVar, Unpack, overload

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from meshwright.agents.run.author import UnawaitedCalls, awaited, noted, plain_data
from meshwright.agents.run.checks import StepCheckFunction, check_step, refuse_check
from meshwright.agents.run.state import RunState
from meshwright.agents.tools.limited_work import cut
from meshwright.agents.tools.tool import QuestionOptions
from meshwright.core import topics
from meshwright.core.errors import AgentError, sentence
from meshwright.core.ids import new_id
from meshwright.core.payloads import StepPayload
from meshwright.core.redaction import Marks, redact, redact_data
from meshwright.core.step_events import RunProgress, RunStateChanged, RunTitled, StepFinished
from meshwright.engine.events.tasks import make_title
from meshwright.engine.work.paths import LifeCall
from meshwright.engine.work.people import HIDDEN, WAITED_FOR, hidden_words, sealed_text
from meshwright.engine.work.protocol import Wait, WaitKind
from meshwright.engine.work.records import ProgressEvent
from meshwright.models.structure import ShapeT

_TEXT = {"type": "string", "minLength": 1}
_MAX_QUESTION_CHARS = 10_000
_MAX_ABOUT_BYTES = 64 * 1024  # of what is shown with a question, which is a part of its thread's state


async def ask_person(
    state: RunState,
    question: str,
    shape: type[ShapeT] | None,
    *,
    expires: timedelta | datetime | None = None,
    about: Mapping[str, Any] | None = None,
    may_answer: Sequence[str] = (),
    remind: timedelta | None = None,
    then: Sequence[str] = (),
) -> str | ShapeT:
    """Ask until an answer fits; see `Run.ask_person`."""
    _check(question, shape)
    _check_reminder(state, expires, remind, then)
    marks, plain = Marks(), _plain(about)
    text, visible_data = redact(question, marks), redact_data(plain, marks)
    hidden = {HIDDEN: marks.counts} if marks.lines or HIDDEN in plain else {}
    subject = {**visible_data, **hidden, "kind": "question", "agent_id": state.agent.agent_id}
    sealed = (sealed_text(state.services.seal, plain, question),) if marks.lines else ()
    schema = _TEXT if shape is None else shape.model_json_schema()
    reason = " ".join(filter(None, [text, hidden_words(hidden)]))
    again = redact(question)
    while True:
        answer = await state.journal.wait(
            "ask_person",
            {"question": question, "about": about, "again": again},
            kind="person",
            reason=reason,
            subject=subject,
            answer_schema=schema,
            may_answer=tuple(may_answer),
            remind_seconds=None if remind is None else remind.total_seconds(),
            then=tuple(then),
            sealed=sealed,
            expires_at=_expiry_time(state, expires),
        )
        if shape is None:
            return str(answer)
        try:
            return shape.model_validate(answer)
        except ValidationError as error:  # of what a JSON schema cannot say
            problems = error.errors(include_url=False, include_input=False)
            errors = "; ".join(
                f"{'.'.join(map(str, one['loc'])) or 'it'}: {sentence(one)}" for one in problems
            )
            problem = f" (The last answer was not accepted: {errors}.)"
            again, reason = redact(question) + problem, reason + problem


async def wait_event(
    state: RunState, topic: str, match: Mapping[str, Any] | None, expires: timedelta | datetime | None
) -> dict[str, Any]:
    """Wait for an event; see `Run.wait_event`."""
    try:
        topics.matcher(topic)
    except (ValueError, AttributeError) as error:
        raise AgentError(f"{topic!r} is no topic: {error}", remedy="Write one like app.orders") from error
    fields = _plain(match)
    if isinstance(event_type := fields.get("event_type"), str):
        fields["event_type"] = topics.type_on(topic, event_type)
    conditions = "".join(f", {name} = {json.dumps(value)}" for name, value in redact_data(fields).items())
    return await state.journal.wait(
        "wait_event",
        {"topic": topic, "match": fields},
        kind="event",
        reason=f"waits for an event on {topic}{conditions}",
        subject={"topic": topic, "match": fields},
        expires_at=None if expires is None else _expiry_time(state, expires),
    )


def waits_for(wait: Wait) -> str:
    """Says as a clause for the conversation of a thread why a request is still open."""
    return f"waits for {WAITED_FOR[wait.kind]}{f': {wait.reason}' if wait.kind == 'person' else ''}"


def _check(question: object, shape: object) -> None:
    if not isinstance(question, str) or not 0 < len(question.strip()) <= _MAX_QUESTION_CHARS:
        raise AgentError(
            "run.ask_person needs a question as text",
            remedy=f"Ask in up to {_MAX_QUESTION_CHARS:,} characters; more goes into about={{...}}",
        )
    if shape is not None and not (isinstance(shape, type) and issubclass(shape, BaseModel)):
        raise AgentError(f"the shape {shape!r} is no pydantic model", remedy="Name a class, such as Approval")


def _plain(about: Mapping[str, Any] | None) -> Any:
    """Plain data of an open wait. Raises AgentError for what JSON cannot hold, or is too long."""
    try:
        data = to_json(dict(about or {}), inf_nan_mode="null")
    except (TypeError, ValueError) as error:
        raise AgentError(
            f"what is given with a wait is not what JSON can hold: {error}", remedy="Give it plain data"
        ) from error
    if len(data) > _MAX_ABOUT_BYTES:
        raise AgentError(
            f"what is given with a wait has {len(data):,} bytes, and may have {_MAX_ABOUT_BYTES:,}",
            remedy="Show what the person needs to decide",
        )
    return from_json(data)


def _expiry_time(state: RunState, expires: timedelta | datetime | None) -> datetime:
    now = state.services.clock.now()
    if isinstance(expires, datetime):
        if expires.tzinfo is None:
            raise AgentError(f"expires={expires} has no time zone", remedy="Give it one, or a timedelta")
        return expires
    return now + (timedelta(days=state.services.patience_days) if expires is None else expires)


def _check_reminder(
    state: RunState, expires: timedelta | datetime | None, remind: timedelta | None, then: Sequence[str]
) -> None:
    if remind is None or isinstance(expires, datetime):  # which may be over as the run is resumed
        return
    if remind * (2 if then else 1) >= (expires or timedelta(days=state.services.patience_days)):
        raise AgentError(
            f"remind={remind} comes too late{' for then' if then else ''}: the question expires before",
            remedy="Remind earlier, or give it longer by expires",
        )


_MAX_PROGRESS_CHARS, _PROGRESS_IN_A_ROW = 1_000, 10
_MAX_STATE_CHARS = 64
_ResultT = TypeVar("_ResultT")


class RunSteps:
    """The part of a `Run` that needs neither a model nor another agent."""

    def __init__(self, state: RunState, unawaited: UnawaitedCalls) -> None:
        self._state = state
        self._journal = state.journal
        self._unawaited = unawaited

    @property
    def step_id(self) -> str:
        """The id of the step that the code is within: the same when the step is run again.

        Send it as the idempotency key of a request that changes something. Raises AgentError outside a step.
        """
        step = self._journal.inside
        if step is None:
            raise AgentError("step_id is asked for outside of a step", remedy="Ask in a tool or in run.step")
        return self._state.work.step_id(step.identity)

    @property
    def outside(self) -> bool:
        """Whether the run has read text from outside, which strangers may have written."""
        return self._journal.outside

    @noted
    async def step(
        self,
        name: str,
        run: Callable[[], Awaitable[_ResultT]],
        *,
        repeatable: bool = True,
        check: StepCheckFunction | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> _ResultT:
        """Run an async function once, however often the work is resumed; the result is plain JSON data.

        With `repeatable=False` it is never run a second time where it may have happened already: a person is
        asked. So it is with a `check`, which is asked first: an async function that gets the step's id, the
        `step_id` that `run` had, and returns a `CheckResult`. It changes nothing, has the time of a tool, and
        cannot tell where it fails. `request` is plain data that says what the step does: it is shown to a
        person who is asked, and a step with another request is another step. Steps may run side by side.
        Raises AgentError where `run` or `check` is no async function, or gives what JSON cannot hold.
        """
        if check is not None:
            refuse_check(name, check)
        started = time.perf_counter()

        def tell(result: Any) -> list[ProgressEvent]:
            duration_ms = round((time.perf_counter() - started) * 1000, 3)
            return [ProgressEvent.from_payload(StepFinished(name=name, duration_ms=duration_ms))]

        return await self._journal.step(
            name,
            {} if request is None else plain_data(request, f"step {name!r} has a request"),
            lambda: self._timed(name, run),
            repeatable=repeatable and check is None,
            tell=tell,
            check=None
            if check is None
            else partial(check_step, self._state, name, lambda: self.step_id, check),
        )

    async def _timed(self, name: str, run: Callable[[], Awaitable[_ResultT]]) -> _ResultT:
        with self._state.time.measure_step(name):
            return await awaited(run, name)

    @overload
    async def gather(
        self, *work: Awaitable[_ResultT], return_exceptions: Literal[False] = False
    ) -> list[_ResultT]: ...
    @overload
    async def gather(
        self, *work: Awaitable[_ResultT], return_exceptions: Literal[True]
    ) -> list[_ResultT | BaseException]: ...

    @noted
    async def gather(self, *work: Awaitable[Any], return_exceptions: bool = False) -> list[Any]:
        """Do things side by side, and return their results in order once all have ended.

        Unlike asyncio's, it lets the others finish when one fails, and raises the first error afterwards;
        with `return_exceptions` errors stand in the place of results. While all that is left is waiting the
        run holds no slot.
        """
        results = await asyncio.gather(*self._begin(work), return_exceptions=True)
        failed = [result for result in results if isinstance(result, BaseException)]
        if failed and not return_exceptions:
            raise failed[0]
        return results

    def _begin(self, work: Sequence[Awaitable[Any]]) -> Sequence[Awaitable[Any]]:
        return work

    @noted
    async def sleep(
        self, seconds: float = 0, *, minutes: float = 0, hours: float = 0, days: float = 0
    ) -> None:
        """Wait for some time, through restarts, without holding a slot; the attempt's clock stands still."""
        pause = timedelta(seconds=seconds, minutes=minutes, hours=hours, days=days)
        due_at = self._state.services.clock.now() + pause
        request = {"seconds": pause.total_seconds()}
        await self._journal.wait("sleep", request, kind="timer", due_at=due_at, reason=f"sleeps for {pause}")

    @noted
    async def progress(self, text: str) -> None:
        """Say how far the work is, as an event of the task."""
        self._state.knowledge.say_progress(text)
        async with self._journal.open_step("progress", {"text": text}, costly=False) as step:
            if not step.is_replayed:
                step.finish(
                    None, [ProgressEvent.from_payload(RunProgress(text=cut(text, _MAX_PROGRESS_CHARS)))]
                )

    def progress_reporter(self) -> Callable[[str], None]:
        """Returns a function that says how far a step is, from any asyncio task, as an event of the task.

        It is no step: one that runs again says it again. Beyond ten in a row it publishes one a second.
        """
        tell, allowed, since = self._journal.teller(), float(_PROGRESS_IN_A_ROW), time.monotonic()

        def report(text: str) -> None:
            nonlocal allowed, since
            now = time.monotonic()
            allowed, since = min(_PROGRESS_IN_A_ROW, allowed + now - since), now
            if allowed >= 1:
                allowed -= 1
                payload = RunProgress(text=cut(redact(text), _MAX_PROGRESS_CHARS))
                tell(ProgressEvent.from_payload(payload, id=f"progress/{new_id()}"))

        return report

    @noted
    async def publish(self, name: str, request: Mapping[str, Any], payload: StepPayload) -> None:
        """Publish an event of the run: once for a name and a request, however often the work is resumed.

        The step has the payload as its result.
        """
        async with self._journal.open_step(name, request, costly=False) as step:
            if not step.is_replayed:
                fields = payload.model_dump(mode="json")
                result = {
                    key: value for key, value in fields.items() if key not in StepPayload.__struct_fields__
                }
                step.finish(result, [ProgressEvent.from_payload(payload)])

    async def note(self, name: str, value: Any, payload: StepPayload | None = None) -> Any:
        """Note plain data, and return what was noted here when the work was not resumed yet.

        The event of a `payload` is published once. A note is no progress: a run that is parked again after it
        pauses for longer.
        """
        async with self._journal.open_step(name, {}, costly=False) as step:
            if not step.is_replayed:
                step.finish(value, () if payload is None else [ProgressEvent.from_payload(payload)])
        return step.result

    def program(self) -> AbstractContextManager[None]:
        """A block in which a program works for the run, without the timeout of steps: it has its own."""
        return self._state.time.apart()

    def begin_life(self) -> None:
        """Note that a program begins: see `Journal.begin_life`."""
        self._journal.begin_life()

    def end_life(self) -> None:
        """Note, behind the note of its result, that a program has ended: see `Journal.end_life`."""
        self._journal.end_life()

    def program_block(self) -> AbstractContextManager[None]:
        """A block in which the code answers a call of a program; see `Journal.program_block`."""
        return self._journal.program_block()

    def begin_life_call(self, call: LifeCall) -> None:
        """Number the next call of the asyncio task as one of a program outside."""
        self._journal.begin_life_call(call)

    @property
    def is_waiting(self) -> bool:
        """Whether the run is being suspended, since all that is left of it waits."""
        return self._journal.suspended is not None

    async def until_durable(self) -> None:
        """Return once every step so far is durable."""
        await self._journal.confirm()

    async def park(self, kind: WaitKind, account: str, reason: str, due_at: datetime) -> NoReturn:
        """Give up the slot, and begin the run again once somebody resumes it, or at a time.

        Waits of a kind are found by the `account` that they are for.
        """
        async with self._journal.open_step("park", {"for": kind}, costly=False):
            await self._journal.park(kind, reason, due_at, {"account": account})

    @noted
    async def state(self, name: str, reason: str = "") -> None:
        """Say which state the work is in, such as `QA`, and why: `GET /tasks/ID` shows the last one.

        At most 64 characters; the reason is cut after 1,000. It is an event `run.state`, once.
        """
        if not 0 < len(name) <= _MAX_STATE_CHARS:
            raise AgentError(
                f"run.state is given {name!r}", remedy=f"Give 1 to {_MAX_STATE_CHARS} characters"
            )
        async with self._journal.open_step("state", {"state": name}, costly=False) as step:
            if not step.is_replayed:
                payload = {"state": name, "reason": cut(redact(reason), _MAX_PROGRESS_CHARS)}
                step.finish(payload, [ProgressEvent.from_payload(RunStateChanged(**payload))])

    @noted
    async def title(self, text: str) -> None:
        """Name the task in lists, on the page and in `GET /tasks/ID`, in place of its request's first line.

        Its first line counts, at most 120 characters; the last title stays. It is an event `run.title`, once.
        """
        line = make_title(redact(text))
        if line is None:
            raise AgentError("run.title is given no words", remedy="Give it a line of text")
        async with self._journal.open_step("title", {"title": line}, costly=False) as step:
            if not step.is_replayed:
                step.finish({"title": line}, [ProgressEvent.from_payload(RunTitled(title=line))])

    @noted
    async def wait_event(
        self,
        topic: str,
        match: Mapping[str, Any] | None = None,
        *,
        expires: timedelta | datetime | None = None,
    ) -> dict[str, Any]:
        """Wait for an event of the mesh's log, through restarts and without holding a slot, and return it.

        `topic` may be a pattern (`app.orders`, `app.*`, `#`); `match` names fields by dotted paths:
        `{"event_type": "order.paid", "payload.order": 7}`; on a topic that begins with `app.` the type is
        `app.order.paid` in the log, and either is right. The first event of the task's tenant counts that
        came after the run began to wait. Raises WaitExpired where none has come by `expires` (by default
        never), AgentError for a topic or a match that cannot be meant.
        """
        return await wait_event(self._state, topic, match, expires)

    @overload
    async def ask_person(self, question: str, **options: Unpack[QuestionOptions]) -> str: ...
    @overload
    async def ask_person(
        self, question: str, *, shape: type[ShapeT], **options: Unpack[QuestionOptions]
    ) -> ShapeT: ...

    @noted
    async def ask_person(
        self, question: str, *, shape: type[ShapeT] | None = None, **options: Any
    ) -> str | ShapeT:
        """Ask a person, and wait for the answer, for days and through restarts, without holding a slot.

        The answer is text, or an object of the pydantic model `shape`; one that does not fit is refused where
        it is given. `about` is data that is shown with the question, and `may_answer` names the callers that
        may answer (none named: all but the agents that ask). If nobody answers within `remind` (by default
        `people.remind_seconds`; zero: never), they are reminded, and after as long again the callers of
        `then` are asked as well. Raises WaitExpired without an answer by `expires` (by default after
        `people.patience_days`), AgentError for what cannot be asked.
        """
        self._state.knowledge.ask(str(question))
        answer = await ask_person(self._state, question, shape, **options)
        self._state.knowledge.answered(str(question))
        return answer
