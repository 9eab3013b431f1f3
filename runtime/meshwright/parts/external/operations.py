"""The requests of programs of external agents: claims, steps, results, heartbeats and the end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from meshwright.core.encoding import View
from meshwright.core.ids import Identifier
from meshwright.core.operations import Input
from meshwright.core.payloads import Fact
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.sql.database import Session
from meshwright.engine.work.conversation import read_recent
from meshwright.engine.work.protocol import Answer
from meshwright.engine.work.record import read_task, thread_ref
from meshwright.kit import Acting, NotFound, Role, Rule, operation
from meshwright.mesh.orchestration.tasks import Leaving
from meshwright.parts.external.component import ExternalComponent
from meshwright.parts.external.run import ExternalRun
from meshwright.parts.external.runs import EndedLife, ExternalRuns, unknown_run
from meshwright.parts.external.steps import ExternalState, StepKind

_WORK = Rule("works for external agents", (Role.WORKER,))
_LOOK_SECONDS = 3.0
"""How often a claim looks for tasks that gave up waiting for a program."""
_MAX_COMPARED = 100  # waiting tasks, the longest waiting, whose priorities are compared
_Wait = Annotated[float, Field(ge=0, le=60, description="Seconds to wait for an answer.")]
_Token = Annotated[str, Field(min_length=1, max_length=100, description="The token of the claim.")]
_ERRORS = {
    404: "No run of the task is under way here: claim again.",
    409: "The run has another life by now, or does not go on like this: `detail` says why.",
}


class ExternalTask(View):
    """The task of a run: its request, its conversation so far, and when it has to have ended."""

    task_id: Fact[str]
    tenant_id: Fact[str]
    thread_id: Fact[str]
    capability: Fact[str]
    text: str
    payload: dict[str, Any]
    requested_by: Fact[str]
    deadline_at: Fact[datetime]
    conversation: tuple[dict[str, str], ...] = ()
    """Earlier requests and answers of its thread, oldest first: `role` and `content`."""
    answer_schema: dict[str, Any] | None = None
    """The JSON schema of the result that its caller wants."""


class ExternalLife(View):
    """A run that a program has claimed: `token` goes with each of its requests, within `lease_seconds`."""

    token: str
    life: Fact[int]
    """Counts the claims of the run in this process of the mesh."""
    lease_seconds: Fact[float]
    task: ExternalTask


class ExternalClaim(View):
    """A claimed run, or none."""

    run: ExternalLife | None = None


class ExternalError(Input):
    """The failure of a step, or of a task."""

    type: str = Field(default="Failed", min_length=1, max_length=64)
    message: str = Field(min_length=1, max_length=4_000)


class ExternalFile(Input):
    """A file of the outcome, with its bytes in base64."""

    name: str = Field(min_length=1, max_length=255)
    media_type: str = Field(default="application/octet-stream", max_length=128)
    data: str


class ExternalOperations(Acting):
    """The operations of programs. Each is bounded in time, and takes the role worker."""

    @operation(
        _WORK,
        "POST /external/{agent_id}/claim",
        "Claim a run",
        name="claim_run",
        errors={404: "There is no external agent of that name: `detail` says which there are."},
    )
    async def claim(
        self,
        agent_id: Identifier,
        *,
        worker: Annotated[str, Field(max_length=64, description="The name of the program.")] = "",
        wait: _Wait = 30.0,
        leaving: Leaving,
    ) -> ExternalClaim:
        """Claim the next run of an external agent: one whose program died, or a new one.

        `run` is null where none comes in time. A claimed run begins at the start of its code: steps that
        ended have their recorded results.
        """
        runs = self._runs(agent_id)
        loop = asyncio.get_running_loop()
        due = loop.time() + wait
        run: ExternalRun | None = None
        runs.last_claim_at = self.mesh.runtime.clock.now()
        with leaving() as left:
            while run is None and not any(future.done() for future in left):
                seconds = min(_LOOK_SECONDS, due - loop.time())
                taking = asyncio.ensure_future(runs.take(self.caller, max(seconds, 0.0), left))
                await asyncio.sleep(0)
                try:
                    if not taking.done():
                        await self._wake(runs)
                    run = await taking
                finally:
                    taking.cancel()
                if loop.time() >= due:
                    break
        if run is None:
            return ExternalClaim()
        life = run.claim(worker)
        return ExternalClaim(
            run=ExternalLife(
                token=life.token,
                life=life.number,
                lease_seconds=runs.table.lease_seconds,
                task=await self._task(run),
            )
        )

    @operation(
        _WORK, "POST /external/runs/{task_id}/steps", "Take a step", name="take_run_step", errors=_ERRORS
    )
    async def step(
        self,
        task_id: Identifier,
        *,
        token: _Token,
        key: Annotated[str, Field(min_length=1, max_length=128, description="Names the step in the run.")],
        kind: StepKind = "step",
        request: Annotated[
            dict[str, Any], Field(description="What the step does, as its kind wants it.")
        ] = {},  # noqa: B006
        idempotent: Annotated[
            bool,
            Field(
                description="Whether it may run again where it may have happened. If not, a person is asked."
            ),
        ] = True,
        wait: _Wait = 30.0,
        leaving: Leaving,
    ) -> ExternalState:
        """Take a step of a run: its recorded result, or the word that it is yours to do.

        A step is known by its key and its request. The mesh itself does those of another kind than `step`.
        """
        run = self._find(task_id, token)
        if isinstance(run, EndedLife):
            return ExternalState(state=run.state)
        with leaving() as left:
            state = await run.step(key, kind, request, idempotent=idempotent, seconds=wait, left=left)
        run.renew()
        return state

    @operation(
        _WORK,
        "POST /external/runs/{task_id}/results",
        "Report the result of a step",
        name="report_run_step",
        errors=_ERRORS,
    )
    async def report(
        self,
        task_id: Identifier,
        *,
        token: _Token,
        key: Annotated[str, Field(min_length=1, max_length=128)],
        request: dict[str, Any] = {},  # noqa: B006
        value: Any = None,
        error: ExternalError | None = None,
    ) -> ExternalState:
        """Report the value or the error of a step that was yours to do. It is recorded once this returns."""
        run = self._find(task_id, token)
        if isinstance(run, EndedLife):
            return ExternalState(state=run.state)
        return await run.report(key, request, value, None if error is None else error.model_dump())

    @operation(
        _WORK,
        "POST /external/runs/{task_id}/heartbeat",
        "Say that the program lives",
        name="beat_run",
        errors=_ERRORS,
    )
    async def heartbeat(
        self,
        task_id: Identifier,
        *,
        token: _Token,
        progress: Annotated[str, Field(max_length=1_000, description="How far the work is.")] = "",
    ) -> ExternalState:
        """Keep the run, and learn whether it was cancelled. Any other request of its token does the same."""
        run = self._find(task_id, token)
        if isinstance(run, EndedLife):
            return ExternalState(state=run.state)
        if progress:
            run.report_progress(progress)
        return ExternalState(state="working", lease_seconds=run.lease_seconds)

    @operation(
        _WORK, "POST /external/runs/{task_id}/complete", "End a run", name="complete_run", errors=_ERRORS
    )
    async def complete(
        self,
        task_id: Identifier,
        *,
        token: _Token,
        text: str | None = None,
        data: dict[str, Any] = {},  # noqa: B006
        files: Annotated[tuple[ExternalFile, ...], Field(max_length=50)] = (),
        error: ExternalError | None = None,
        declined: Annotated[bool, Field(description="Whether the agent says no, rather than broke.")] = False,
        leaving: Leaving,
    ) -> ExternalState:
        """End a run with its result, or with an `error`: the task has its outcome then."""
        run = self._find(task_id, token)
        if isinstance(run, EndedLife):
            return ExternalState(state=run.state)
        if error is not None:
            run.fail(error.message, is_declined=declined)
        else:
            result = {**data, **({} if text is None else {"text": text})}
            run.complete(result, [file.model_dump() for file in files])
        with leaving() as left:
            return ExternalState(state=await run.until_over(30.0, left))

    def _runs(self, agent_id: str) -> ExternalRuns:
        agents = self.mesh.get(ExternalComponent).runs()
        if agent_id not in agents:
            names = ", ".join(sorted(agents)) or "none"
            raise NotFound(
                f"There is no external agent {agent_id!r}",
                remedy=f"The tables [external.NAME] make them; there are {names}",
                field="agent_id",
            )
        return agents[agent_id]

    def _find(self, task_id: str, token: str) -> ExternalRun | EndedLife:
        for runs in self.mesh.get(ExternalComponent).runs().values():
            if (entry := runs.find(self.caller, task_id, token)) is not None:
                if isinstance(entry, EndedLife):
                    return entry
                run, _ = entry
                run.renew()
                return run
        raise unknown_run(task_id)

    async def _wake(self, runs: ExternalRuns) -> None:
        """Resume tasks that gave up waiting for a program, as many as programs wait."""
        tenant_id = None if self.caller.all_tenants else self.caller.tenant_id
        waits = await self.mesh.log.view(_parked, runs.account, tenant_id, runs.claimants)
        for tenant, task_id, key in waits:
            with suppress(NotFound):
                record, task = await read_task(self.mesh.runtime, task_id, tenant)
                if (thread := thread_ref(record, task)) is not None:
                    answer = Answer(task_id=task_id, key=key, value=None)
                    await self.mesh.runtime.call(thread, "resume", answer)

    async def _task(self, run: ExternalRun) -> ExternalTask:
        task, messages = run.run.task, tuple[dict[str, str], ...]()
        if task.thread_id != task.task_id:
            thread = ActorRef(run.run.agent_id, f"{task.tenant_id}:{task.thread_id}")
            recent = await read_recent(self.mesh.runtime, thread)
            messages = tuple({"role": one.role, "content": one.content} for one in recent.messages)
        return ExternalTask(
            task_id=task.task_id,
            tenant_id=task.tenant_id,
            thread_id=task.thread_id,
            capability=task.capability,
            text=task.text,
            payload=task.payload,
            requested_by=task.requested_by,
            deadline_at=task.deadline_at,
            conversation=messages,
            answer_schema=task.shape,
        )


def _parked(session: Session, account: str, tenant_id: str | None, limit: int) -> list[tuple[str, str, str]]:
    """(tenant_id, task_id, key) of tasks for a program: the most urgent of those that wait longest."""
    waits = session.by_index("waits", "waits_of_program" if tenant_id is None else "waits_of_account")
    of_tenant = "" if tenant_id is None else "AND tenant_id = :tenant_id "
    query = (
        "SELECT waits.tenant_id, waits.task_id, wait_key FROM (SELECT tenant_id, task_id, wait_key, since "  # noqa: S608 code
        f"FROM {waits} WHERE kind = 'program' AND account = :account {of_tenant}ORDER BY since "
        f"LIMIT {_MAX_COMPARED}) AS waits LEFT JOIN tasks "
        "ON tasks.task_id = waits.task_id AND tasks.tenant_id = waits.tenant_id "
        "ORDER BY coalesce(tasks.priority, 5) DESC, since LIMIT :limit"
    )
    values: dict[str, Any] = {"account": account, "limit": limit}
    if tenant_id is not None:
        values["tenant_id"] = session.bindable(tenant_id)
    return session.execute(query, values).fetchall()
