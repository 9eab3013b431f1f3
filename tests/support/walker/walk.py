"""One walk: a program runs, acts happen to it, and in the end everything that can end does."""

from __future__ import annotations

import asyncio
import atexit
import functools
import shutil
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from meshwright.core.errors import MeshError
from meshwright.core.messages import ENDED
from tests.support.walker.acts import DURING, Act, Situation, count_of_acts, drawn_act, picked
from tests.support.walker.database import connect
from tests.support.walker.history import History, Plan, Retried
from tests.support.walker.mesh import MemoryMesh, WalkedMesh
from tests.support.walker.people import People
from tests.support.walker.programs import ROOT, SHIELD, agent_names, all_ops, edited
from tests.support.walker.simulation import SimulatedLoop, simulate
from tests.support.walker.threads import SimulatedThreads
from tests.support.walker.world import World

_USUAL_PRICE = {"input": 0.1, "output": 0.5}
_CALL_SECONDS = 120.0
_IDLE_SECONDS = (1.0, 10.0, 60.0, 130.0)
_MAX_ROUNDS = 40


def run_walk(plan: Plan) -> History:
    """Walk, and return what happened."""
    with closing(connect(new_database())) as database:
        return simulate(lambda loop: _walk_in_memory(loop, plan, database), f"{plan.seed}")


async def _walk_in_memory(loop: SimulatedLoop, plan: Plan, database: sqlite3.Connection) -> History:
    threads = SimulatedThreads()
    world = World(plan.program, plan.seed, lies=plan.lies, checks=plan.checks, threads=threads)
    settings: dict[str, Any] = {"models": {"park": plan.parks}}
    if plan.purse is not None:  # a purse takes no call whose price is not known
        settings["ledger"] = {"default_price": _USUAL_PRICE}
    mesh = MemoryMesh(loop, world, empty_folder(), database, faults=dict(plan.faults), settings=settings)
    try:
        return await Walk(mesh, world, plan).run()
    finally:
        threads.abandon()


@functools.cache
def new_database() -> bytes:
    """A database with its tables, which take longer to make than most walks."""

    async def made(loop: SimulatedLoop) -> bytes:
        mesh = MemoryMesh(loop, World({}, "tables"), empty_folder(), database)
        await mesh.start()
        await mesh.stop()
        return database.serialize()

    with closing(connect()) as database:
        return simulate(made, "tables")


@functools.cache
def empty_folder() -> Path:
    """The project and the data of all walks: they have no files."""
    folder = Path(tempfile.mkdtemp(prefix="walk-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Walk:
    """A walk on a mesh, whatever it runs on."""

    def __init__(self, mesh: WalkedMesh, world: World, plan: Plan) -> None:
        self._mesh = mesh
        self._world = world
        self._plan = plan
        self._history = History(plan, self._world, [plan.program])
        self._people = People(mesh, self._history)
        self._open_tasks = self._task_count = 0
        self._was_killed = False
        self._under_way: asyncio.Task[None] | None = None

    async def run(self) -> History:
        await self._mesh.start()
        try:
            await self._submit()
            await self._do_all()
            await self._finish()
            await self._look()
        finally:
            await self._mesh.kill()
        return self._history

    async def _do_all(self) -> None:
        acts, seed = self._plan.acts, self._plan.seed
        count = count_of_acts(seed) if acts is None else len(acts)
        for number in range(1, count + 1):
            self._world.act = number
            now = await self._situation()
            act = drawn_act(seed, number, now) if acts is None else acts[number - 1]
            self._history.acts.append(act)
            await self._reach(act)
            await self._perform(act)
            self._mesh.release()
        self._world.act = count + 1

    # Acts

    async def _situation(self) -> Situation:
        tasks = await self._mesh.tasks()
        self._count_new(len(tasks))
        roots = [task for task in tasks if task.parent_task_id is None and task.status in ENDED]
        self._open_tasks = sum(task.status not in ENDED for task in tasks)
        return Situation(
            agents=tuple(agent_names(self._world.program)),
            open_tasks=self._open_tasks,
            questions=len(await self._mesh.inbox()),
            failed=sum(task.status != "succeeded" for task in roots),
            ended=len(roots),
            missing=bool(self._mesh.missing),
            provider=self._world.provider,
            is_simulated=self._mesh.is_simulated,
        )

    def _count_new(self, count: int) -> None:
        """Allow for a call of each task that came between the last look and a kill: it may be cut off too."""
        if self._was_killed:
            self._world.cut_calls += max(0, count - self._task_count)
        self._was_killed, self._task_count = False, count

    async def _reach(self, act: Act) -> None:
        moment = act.moment
        if act.kind == "kill" and act.way in DURING:
            during = replace(act, kind=act.way, way="yes" if act.way == "answer" else "")
            self._say(f"{self._world.act}. {during.kind} #{act.pick:.2f}, and meanwhile")
            self._under_way = asyncio.create_task(self._act(during))
        is_kill = act.kind == "kill" and act.way != "stop"
        if held := await self._mesh.reach(moment, is_kill=is_kill):
            self._say(f"  held {held}")

    async def _perform(self, act: Act) -> None:
        self._say(f"{self._world.act}. {act}")
        if act.kind == "kill":
            await self._kill(act)
            return
        if act.kind == "edit":
            await self._deploy(act)
            return
        if act.kind == "end":
            self._mesh.release()
            await self._finish()
            return
        if act.kind == "wait":
            self._mesh.release()
            await self._mesh.pass_time(float(act.way))
            return
        await self._act(act)

    async def _act(self, act: Act) -> None:
        perform: Callable[[Act], Awaitable[None]] = getattr(self, f"_do_{act.kind}")
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                await perform(act)
        except MeshError as error:
            self._say(f"  refused: {type(error).__name__}: {str(error)[:110]}")
        except TimeoutError:
            self._say("  had no answer")

    async def _kill(self, act: Act) -> None:
        self._history.kills += 1
        if act.way == "stop":
            self._was_killed = True
            self._world.cut_calls += self._open_tasks
            self._mesh.release()
            await self._mesh.stop()
            self._disturb()
        else:
            await self._kill_process()
        self._under_way = None
        if act.way == "edit":
            self._edit(f"{act.pick}")
        self._history.was_missing |= set(act.missing)
        await self._mesh.start(act.missing)

    async def _kill_process(self) -> None:
        self._was_killed = True
        self._world.cut_calls += self._open_tasks
        await self._mesh.kill()
        self._disturb()

    async def _deploy(self, act: Act) -> None:
        """A deploy: new code comes by a start."""
        self._world.cut_calls += self._open_tasks
        self._mesh.release()
        await self._mesh.stop()
        self._disturb()
        self._edit(act.way)
        await self._mesh.start(self._mesh.missing)

    def _edit(self, seed: str) -> None:
        self._world.program = edited(self._world.program, f"{self._plan.seed} {seed}")
        self._history.programs.append(self._world.program)
        old, new = self._history.programs[-2:]
        for name, job in new.items():
            if old[name] != job:
                self._say(f"  {name} is now: {'; '.join(map(str, job.ops)) or 'nothing'}")

    async def _do_answer(self, act: Act) -> None:
        await self._people.act(act)

    async def _do_lease(self, act: Act) -> None:
        self._history.leases += 1
        self._world.cut_calls += self._open_tasks
        self._disturb(goes_on=True)
        self._mesh.lose_lease()

    def _disturb(self, *, goes_on: bool = False) -> None:
        """Note that code is cut off. Each of its legs may have asked, where no record says what it did."""
        ops = [op for job in self._world.program.values() for op in all_ops(job.ops)]
        legs = sum(len(op.branches) for op in ops if op.kind in ("legs", "hedge") or op.way == SHIELD)
        asked = self._world.asks.disturb(goes_on=goes_on)
        self._world.calls_beside += max(asked, (legs - 1) * max(1, self._open_tasks))

    async def _do_submit(self, act: Act) -> None:
        await self._submit()

    async def _submit(self) -> None:
        agent = self._world.program[ROOT].agent
        plan = self._plan
        known = {"deadline": plan.deadline, "thread_id": plan.thread, "budget_usd": plan.purse}
        task_id = await self._mesh.submit(agent, f"job {ROOT}", **known)
        self._history.submitted.append(task_id)
        self._say(f"  {self._name(task_id)} is submitted")

    async def _do_publish(self, act: Act) -> None:
        names = sorted(
            {op.name for job in self._world.program.values() for op in all_ops(job.ops) if op.kind == "event"}
        )
        if names:
            await self._mesh.publish(f"app.{picked(names, act.pick)}")

    async def _do_provider(self, act: Act) -> None:
        self._world.provider = act.way

    async def _do_clock(self, act: Act) -> None:
        self._mesh.set_clock(float(act.way))
        self._history.clock_was_set = True

    async def _do_cancel(self, act: Act) -> None:
        open_tasks = [task.task_id for task in await self._mesh.tasks() if task.status not in ENDED]
        if not open_tasks:
            return
        task_id = picked(open_tasks, act.pick)
        view = await self._mesh.see(task_id)
        if view.parent_task_id is not None and act.pick < 0.8:
            task_id = self._root_of(
                task_id, {task.task_id: task.parent_task_id for task in await self._mesh.tasks()}
            )
        await self._mesh.cancel(task_id)
        self._say(f"  cancels {self._name(task_id)}")
        if asyncio.current_task() is self._under_way:
            return
        self._mesh.release()
        await self._mesh.until_idle()
        await self._mesh.pass_time(15)  # effects under way when the cancel came may end
        await self._mesh.until_idle()
        self._history.cancels.append((task_id, len(self._world.effects), self._world.act))

    def _root_of(self, task_id: str, parents: dict[str, str | None]) -> str:
        while (parent := parents.get(task_id)) is not None:
            task_id = parent
        return task_id

    async def _do_retry(self, act: Act) -> None:
        tasks = [
            task for task in await self._mesh.tasks() if task.status in ENDED and task.status != "succeeded"
        ]
        roots = [task for task in tasks if task.parent_task_id is None]
        if not tasks:
            return
        task = picked(roots or tasks, act.pick)
        again = await self._mesh.retry(task.task_id, act.way or None, dry_run=True)
        self._history.retries.append(Retried(task.task_id, again.begin, self._world.act))
        await self._mesh.retry(task.task_id, act.way or None)
        self._say(f"  {self._name(task.task_id)} begins at the {again.begin}, {again.steps_kept} steps kept")

    async def _do_fork(self, act: Act) -> None:
        tasks = [task for task in await self._mesh.tasks() if task.status in ENDED]
        if not tasks:
            return
        roots = [task for task in tasks if task.parent_task_id is None] or tasks
        task = picked(roots, act.pick * 7 % 1)
        names = await self._mesh.steps(task.task_id)
        if not names:
            return
        step = picked(sorted(names), act.pick)
        fork = await self._mesh.fork(task.task_id, step)
        assert fork.task_id is not None
        self._say(
            f"  {self._name(fork.task_id)} forks {self._name(task.task_id)} behind {step} ({names[step]})"
        )

    # The end

    async def _finish(self) -> None:
        """Bring back what is away, answer what is open, let time pass, until all has ended that can."""
        self._world.provider = "up"
        if self._mesh.missing:
            self._say(f"finally {', '.join(self._mesh.missing)} is back")
            await self._situation()
            await self._kill_process()
            await self._mesh.start()
        left = list(_IDLE_SECONDS)
        for _ in range(_MAX_ROUNDS):
            await self._mesh.until_idle()
            tasks = [task for task in await self._mesh.tasks() if task.status not in ENDED]
            if not tasks:
                break
            waits = [wait for task in tasks for wait in (await self._mesh.see(task.task_id)).waits]
            if await self._people.answer_all(waits):
                left = list(_IDLE_SECONDS)
                continue
            if not left:
                break
            times = [wait.due_at for wait in waits if wait.due_at is not None]
            if times:
                left = list(_IDLE_SECONDS)
                await asyncio.sleep(max(1.0, (min(times) - self._mesh.now()).total_seconds()))
            else:
                await self._mesh.pass_time(left.pop(0))

    async def _look(self) -> None:
        history, mesh = self._history, self._mesh
        for task in await mesh.tasks():
            history.tasks[task.task_id] = await mesh.see(task.task_id)
        self._count_new(len(history.tasks))
        history.events = await mesh.events()
        history.inbox = await mesh.inbox()
        history.costs = await mesh.costs()
        if await mesh.tasks("other") or await mesh.inbox("other"):
            history.leaks.append("another tenant sees tasks or questions")

    def _name(self, task_id: str) -> str:
        return self._history.name_of(task_id)

    def _say(self, text: str) -> None:
        self._history.say(text)
