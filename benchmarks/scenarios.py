"""Tasks done: scenarios of a simulated provider, worked on by us, by pydantic-ai and by dapr-agents.

Each contender gets a provider, a world and a folder of its own; the rivals run in environments of their own.
A cell says how many tasks got the right result, a wrong one and none, how many steps were repeated, and how
many dollars went for answers that were lost or asked for again and for tasks that were not done.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.dapr_agents import CONFIGURATION
from benchmarks.dapr_ground import COMPONENTS, ground, missing
from benchmarks.figures import Row
from benchmarks.rivals import DAPR_AGENTS, PYDANTIC_AI, installed
from benchmarks.sides import ROOT, clean_environment, kill
from tests.support.simulator.scenario import Scenario, load_scenarios
from tests.support.simulator.score import Score, job_of, judge
from tests.support.simulator.server import Simulator

OURS = "meshwright"
MAX_SECONDS = 400.0
SHORT = ("poll",)  # what a short look plays
WHOLE = 0.3  # of a full run: less is but a look
_LAST_WORDS = 300
_STOPPED = f"stopped after {MAX_SECONDS:.0f} s"


@dataclass(frozen=True)
class Contender:
    """A program that works on scenarios, and what has to run beside it."""

    module: str
    python: Path
    beside: Callable[[Path], AbstractAsyncContextManager[Mapping[str, str]]] = lambda folder: nullcontext({})


async def measure(bench: Bench) -> list[Row]:
    """A row a scenario. The contenders work side by side."""
    contenders, absent = await _contenders()
    scenarios = load_scenarios()
    chosen = SHORT if bench.scale < WHOLE else tuple(scenarios)
    rows = [Row(name, f"not run: {reason}") for name, reason in absent.items()]
    for name in chosen:
        plays = [_play(bench, contender, scenarios[name]) for contender in contenders.values()]
        scores = dict(zip(contenders, await asyncio.gather(*plays), strict=True))
        for contender, score in scores.items():
            bench.say(f"  {name}, {contender}: {_cell(score)} {sorted(set(score.reasons))[:2]}")
        rows.append(_row(scenarios[name], scores))
    return rows


async def _contenders() -> tuple[dict[str, Contender], dict[str, str]]:
    """Who takes part, and why others do not."""
    found = {OURS: Contender("benchmarks.contest.ours", Path(sys.executable))}
    absent: dict[str, str] = {}
    rivals = {
        "pydantic-ai": (PYDANTIC_AI, partial(Contender, "benchmarks.contest.with_pydantic_ai")),
        "dapr-agents": (
            DAPR_AGENTS,
            partial(Contender, "benchmarks.contest.with_dapr_agents", beside=_sidecar),
        ),
    }
    for name, (requirement, contender) in rivals.items():
        if name == "dapr-agents" and (reason := missing()):
            absent[f"scenarios beside {name}"] = reason
            continue
        try:
            found[name] = contender(await installed(requirement))
        except (OSError, RuntimeError, TimeoutError) as error:
            absent[f"scenarios beside {name}"] = f"{requirement} cannot be installed: {error}"
    return found, absent


@asynccontextmanager
async def _sidecar(folder: Path) -> AsyncIterator[Mapping[str, str]]:
    """A daprd with its services, for one contender."""
    components = folder / "components"
    shutil.copytree(COMPONENTS, components)
    (components / "config.yaml").write_text(CONFIGURATION)
    async with ground(folder, protocol="none", components=components) as here:
        yield here.replicas[0].app.environment()


async def _play(bench: Bench, contender: Contender, scenario: Scenario) -> Score:
    """Have a contender work on a scenario until it ends or its time is up, and judge it."""
    was_stopped = False
    with bench.folder() as folder:
        async with Simulator(scenario) as simulator, contender.beside(folder / "beside") as environment:
            job = job_of(scenario, str(folder), simulator.url)

            async def start() -> Process:
                with (folder / "errors").open("ab") as errors:
                    return await asyncio.create_subprocess_exec(
                        str(contender.python),
                        *("-m", contender.module, job.encode()),
                        cwd=ROOT,
                        env={**clean_environment(), **environment},
                        stdin=DEVNULL,
                        stdout=DEVNULL,
                        stderr=errors,
                    )

            process = await start()
            try:
                async with asyncio.timeout(MAX_SECONDS):
                    await simulator.called.wait()
                    passed = 0.0
                    for seconds in scenario.kill_seconds:
                        await asyncio.wait([asyncio.create_task(process.wait())], timeout=seconds - passed)
                        if process.returncode is not None:
                            break
                        passed = seconds
                        kill(process)
                        await process.wait()
                        process = await start()
                    await process.wait()
                said = (folder / "errors").read_text(errors="replace")[-_LAST_WORDS:]
                if process.returncode:
                    bench.say(f"  {contender.module} ended with {process.returncode}: {said}")
            except TimeoutError:
                was_stopped = True
            finally:
                kill(process)
                await process.wait()
            booked = folder / "booked"
            score = judge(
                scenario, job, simulator.ledger, Decimal(booked.read_text()) if booked.exists() else None
            )
            return replace(score, reasons=(*score.reasons, _STOPPED)) if was_stopped else score


def _row(scenario: Scenario, scores: Mapping[str, Score]) -> Row:
    ours = scores[OURS]
    others = {name: score for name, score in scores.items() if name != OURS}
    first = all(_rank(ours) >= _rank(score) for score in others.values())
    booked = f"{ours.booked:f}" if ours.booked is not None else "nothing"
    return Row(
        f"{scenario.name}, {scenario.tasks} tasks",
        _cell(ours),
        "; ".join(f"{name} {_cell(score)}" for name, score in others.items()),
        target="first",
        met=first,
        note=f"{scenario.about}; we booked ${booked} of ${ours.billed:f}",
    )


def _rank(score: Score) -> tuple[float, ...]:
    """Right results first, then fewer wrong ones, fewer repeated steps, and fewer whole cents of waste."""
    return (score.done, -score.wrong, -score.repeated, -int(100 * score.wasted))


def _cell(score: Score) -> str:
    """Done, wrong, failed, steps repeated, dollars wasted."""
    cell = f"{score.done} / {score.wrong} / {score.failed} / {score.repeated} / ${score.wasted:.4f}"
    return f"{cell} ({_STOPPED})" if _STOPPED in score.reasons else cell
