"""A pool: real workers, threads and orchestrators on one host after another, at work by a test's script."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from meshwright.core import topics
from meshwright.core.capability import Capability, Registration
from meshwright.core.clock import Clock, SystemClock
from meshwright.core.errors import MeshError
from meshwright.core.events import Event
from meshwright.core.messages import ENDED, Fault, Outcome, Parent, Receipt, Task
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.guarantees import Subscription
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.work import (
    AgentThread,
    Answer,
    Cancel,
    Claim,
    Complete,
    Journal,
    Offer,
    ThreadState,
    Work,
    Worker,
)
from meshwright.engine.work.claims import Settler
from meshwright.engine.work.entry import route_to_thread
from meshwright.engine.work.protocol import ORCHESTRATOR, Accept
from meshwright.mesh.orchestration.orchestrator import Orchestrator, route_to_task
from meshwright.mesh.orchestration.registry import Registry
from meshwright.money.account import ACCOUNT, BudgetAccount
from tests.support.harness import RuntimeHarness
from tests.support.observer import eventually

FINAL = {f"task.{status}" for status in ENDED}


@dataclass
class Shift:
    """One claimed attempt under way, as a script sees it."""

    pool: "WorkerPool"
    work: Work
    journal: Journal

    @property
    def task_id(self) -> str:
        return self.work.task.task_id

    async def do(self, name: str) -> str:
        """A step that notes "task name" when it begins, and ends when the test lets it."""

        async def run() -> str:
            await self.pool.begin(f"{self.task_id} {name}")
            return f"{name} by {self.work.fence}"

        return await self.journal.step(name, {}, run)

    async def pay(self, name: str) -> int:
        """A step that calls a model; returns how many of its calls were cut off before."""
        async with self.journal.open_step("model", {"name": name}, paid=True) as step:
            if not step.is_replayed:
                cut = step.take_cut()
                await self.pool.begin(f"{self.task_id} {name}")
                step.finish(cut)
        return step.result

    async def ask(self, question: str) -> Any:
        """Wait for a person."""
        return await self.journal.wait("ask", {"question": question}, reason=question)

    async def sleep(self, pause: timedelta) -> None:
        """Wait for a time."""
        due_at = self.pool.runtime.clock.now() + pause
        await self.journal.wait("sleep", {}, kind="timer", due_at=due_at)

    async def delegate(self, task_id: str) -> Any:
        """Wait for a task of the same agent's, on a thread of its own."""
        thread = thread_ref(self.work.task, self.work.dispatch.agent_id)

        def child(wait_id: str, identity: str) -> Task:
            parent = Parent(actor_type=thread.type, actor_id=thread.id, key=wait_id, task_id=self.task_id)
            return a_task(task_id, self.work.task.created_at, parent=parent)

        return await self.journal.wait("delegate", {"task_id": task_id}, kind="task", child=child)


Script = Callable[[Shift], Awaitable[str]]
StartWorkers = Callable[..., Awaitable["WorkerPool"]]


class ToldOn(Worker):
    """Tells of every signal that it takes."""

    on_signal: Callable[[], None]

    def signal(self, ref: ActorRef, signal: Any) -> None:
        super().signal(ref, signal)
        self.on_signal()


class WorkerPool:
    """Opens hosts on a harness, each with a worker that works by the script, and remembers what was begun."""

    def __init__(
        self,
        harness: RuntimeHarness,
        script: Script,
        *,
        slots: int = 8,
        agents: tuple[str, ...] = ("helper",),
        settle: Callable[[Runtime], Settler] | None = None,
    ) -> None:
        self.script = script
        self.begun: list[str] = []
        self.worker: Worker
        self.runtime: Runtime
        self._harness = harness
        self._slots = slots
        self._agents = agents
        self._settle = settle
        self.holds_work = False
        """Whether the next worker begins no work until it is told to."""
        self._workers: list[tuple[Runtime, Worker]] = []
        self._held: dict[str, asyncio.Event] = {}
        self._changed = asyncio.Event()

    # Opening and ending

    async def reinforce(self) -> Runtime:
        """A second host on the same data, with a worker of its own."""
        return await self._harness.open_beside(self.runtime)

    def worker_of(self, runtime: Runtime) -> Worker:
        """The worker that was employed last for a host."""
        return next(worker for each, worker in reversed(self._workers) if each is runtime)

    async def kill(self, runtime: Runtime) -> None:
        """End a host and its worker as kill -9 would, beside others on the same data."""
        await self._end_abruptly(self.worker_of(runtime))
        await self._harness.kill(runtime)

    async def open(self, clock: Clock | None = None) -> None:
        """A host on data of its own, and its worker."""
        registry = Registry()
        for agent_id in self._agents:
            capabilities = (Capability("helping"),)
            registry.register(Registration(agent_id=agent_id, name=agent_id, capabilities=capabilities))
        threads = [ActorKind.from_class(AgentThread, type=agent_id) for agent_id in self._agents]
        dispatches = [Subscription(topics.tasks(each), route_to_thread, "enqueue") for each in self._agents]
        self.runtime = await self._harness.open(
            ActorKind.from_class(Orchestrator, registry=registry),
            *threads,
            ActorKind.from_class(BudgetAccount, type=ACCOUNT),
            subscriptions=[Subscription(topics.TASK_RESULTS, route_to_task, "settle"), *dispatches],
            staff=self.employ,
            clock=clock or SystemClock(),
        )

    def employ(self, runtime: Runtime) -> Worker:
        """A worker for a host; the latest one is `worker`."""
        runtime.listen("#", lambda event: self._changed.set())
        settle = None if self._settle is None else self._settle(runtime)
        self.worker = ToldOn(runtime, self._run, lambda agent_id: self._slots, settle=settle)
        if self.holds_work:
            self.worker.hold()
        self.worker.on_signal = self._changed.set
        self._workers.append((runtime, self.worker))
        return self.worker

    def take_over(self, task_id: str) -> Worker:
        """A second worker on the host claims a task, as after a start that the first has overslept."""
        ref = ActorRef("helper", f"default:{task_id}")
        successor = self.employ(self.runtime)
        self.runtime.attach(successor)
        successor.signal(ref, Offer(ref, task_id, "default", 5, 0.0, owner=self.runtime.incarnation))
        return successor

    async def crash(self) -> None:
        """End everything as kill -9 would, and start again."""
        await self._end_abruptly(self.worker)
        self.runtime = await self._harness.crash(self.runtime)

    async def _end_abruptly(self, worker: Worker) -> None:
        worker.lease_lost()  # leaves its work as it is, without a word to the store
        await worker.drain(0)

    async def restart(self, drain_seconds: float = 0) -> None:
        """Stop as a mesh does, and start again."""
        await self.worker.drain(drain_seconds)
        self.runtime = await self._harness.reopen(self.runtime)

    async def close(self) -> None:
        """Leave no work behind."""
        for _, worker in self._workers:
            await worker.drain(0)

    # Tasks

    async def submit(self, task_id: str, **fields: Any) -> Receipt:
        """Have a task accepted."""
        accept = Accept.wrap(a_task(task_id, self.runtime.clock.now(), **fields))
        return await self.runtime.call(ActorRef(ORCHESTRATOR, task_id), "accept", accept)

    async def outcome(self, task_id: str) -> Outcome:
        """Wait for the outcome of a task."""
        await self.until(lambda: any(event.task_id == task_id for event in self.finals()))
        [event] = [event for event in self.finals() if event.task_id == task_id]
        return outcome_of(event)

    async def cancel(self, task_id: str) -> None:
        await self.runtime.call(ActorRef(ORCHESTRATOR, task_id), "cancel", Cancel(task_id=task_id))

    async def waiting(self, task_id: str) -> dict[str, Any]:
        """Wait until a task has been put aside; what its event says."""
        await self.until(lambda: bool(self.events("task.waiting", task_id)))
        return self.events("task.waiting", task_id)[-1].payload

    async def asked(self, task_id: str, words: str) -> str:
        """Wait until a task has asked something; the key of its answer."""

        def keys() -> list[str]:
            waiting = self.events("task.waiting", task_id)
            return [event.payload["key"] for event in waiting if event.payload.get("asked") == words]

        await self.until(lambda: bool(keys()))
        return keys()[-1]

    async def answer(
        self, task_id: str, value: Any, *, thread: str | None = None, asked: str | None = None
    ) -> bool:
        """Answer what a task waits for: the last that it did, or a question in these words."""
        key = (await self.waiting(task_id))["key"] if asked is None else await self.asked(task_id, asked)
        ref = ActorRef("helper", f"default:{thread or task_id}")
        return await self.runtime.call(ref, "resume", Answer(task_id=task_id, key=key, value=value))

    async def inbox(self, thread: str) -> list[str]:
        state = await self.runtime.read(ActorRef("helper", f"default:{thread}"))
        return [entry.task_id for entry in state.inbox] if isinstance(state, ThreadState) else []

    async def queued(self, thread: str, *task_ids: str) -> list[str]:
        """Wait until a thread of the helper has these tasks in its inbox; all of it, in order."""
        while not set(task_ids) <= set(inbox := await self.inbox(thread)):
            await self.let_turns_be_taken(thread)
        return inbox

    async def let_turns_be_taken(self, thread: str) -> None:
        """Claim what nobody has: a turn that changes nothing, behind those that wait."""
        claim = Claim(task_id="nobody's", owner="nobody")
        await self.runtime.call(ActorRef("helper", f"default:{thread}"), "claim", claim)

    # What happens

    def events(self, event_type: str, task_id: str | None = None) -> list[Event]:
        events = [event for event in self._harness.watch.of(event_type) if task_id in (None, event.task_id)]
        return [Event.model_validate_json(event.model_dump_json()) for event in events]

    def finals(self) -> list[Event]:
        return [event for event in self._harness.watch.events.values() if event.event_type in FINAL]

    def hold(self, what: str) -> None:
        """Have a step that is to come go no further than its beginning, until `let_go`."""
        self._held[what] = asyncio.Event()

    def let_go(self, what: str) -> None:
        self._held.pop(what).set()

    async def begin(self, what: str) -> None:
        self.begun.append(what)
        self._changed.set()
        if what in self._held:
            await self._held[what].wait()

    async def has_begun(self, what: str, times: int = 1) -> None:
        await self.until(lambda: self.begun.count(what) >= times)

    async def until(self, condition: Callable[[], bool]) -> None:
        await eventually(condition, self._changed)

    async def _run(self, ref: ActorRef, work: Work, journal: Journal) -> Complete:
        status, result, error = "succeeded", None, None
        try:
            result = {"text": await self.script(Shift(self, work, journal))}
        except MeshError as raised:
            status, error = "failed", Fault(type=raised.code, message=str(raised))
        except asyncio.CancelledError:
            if journal.suspended is None or not journal.let_go():
                raise
            await journal.close()
            raise journal.suspended from None  # all that is left of the run is waiting
        outcome = Outcome(
            task_id=work.task.task_id,
            agent_id=work.dispatch.agent_id,
            status=status,
            success=error is None,
            result=result,
            error=error,
            completed_at=work.task.created_at,
            attempt=work.dispatch.attempt,
        )
        return Complete(task_id=work.task.task_id, fence=work.fence, outcome=outcome)


def a_task(task_id: str, now: Any, **fields: Any) -> Task:
    given: dict[str, Any] = {
        "task_id": task_id,
        "capability": "helping",
        "thread_id": task_id,
        "created_at": now,
        "deadline_at": now + timedelta(seconds=360),
    }
    return Task(**(given | fields))


def thread_ref(task: Task, agent_id: str = "helper") -> ActorRef:
    return ActorRef(agent_id, f"{task.tenant_id}:{task.thread_id}")


def outcome_of(event: Event) -> Outcome:
    return event.payload if isinstance(event.payload, Outcome) else Outcome.model_validate(event.payload)
