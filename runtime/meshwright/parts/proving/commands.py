"""The command `mesh prove`."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from meshwright.console.options import AMOUNT, Number, data_option
from meshwright.console.project import require_trust, trust_option
from meshwright.kit import WholeNumber, echo_json, json_option, say

if TYPE_CHECKING:
    from meshwright.core.settings import Settings
    from meshwright.parts.proving.trial import Findings, TrialOptions

_ResultT = TypeVar("_ResultT")
_KILLS_PER_MINUTE = 6
_CANNOT_PROVE = 2
_INTERRUPTED = 130
_WORKERS = 3


@click.command()
@click.option(
    "--database",
    metavar="URL",
    help="PostgreSQL to prove: postgresql://user@host/name. Default: that of the settings, else SQLite.",
)
@click.option(
    "--broker",
    metavar="URL",
    help="MQTT broker to prove too: mqtt://host or mqtts://host, with the user and files of [mqtt].",
)
@click.option(
    "--model", metavar="NAME", help="Have this model answer plain tasks, by real calls of at most 16 tokens."
)
@click.option(
    "--budget", "budget_usd", type=AMOUNT, metavar="USD", help="Dollars that all calls of --model may cost."
)
@click.option(
    "--agent",
    metavar="ID",
    help="Prove this agent of the project instead: kill it before and behind each step.",
)
@click.option(
    "--text",
    default="Prove this agent.",
    show_default=True,
    metavar="TEXT",
    help="The request of --agent, of which arguments of its tools are made.",
)
@click.option(
    "--tool",
    "tools",
    multiple=True,
    metavar="NAME",
    help="A tool that --agent calls. Default: each of its own.",
)
@click.option("--yes", is_flag=True, help="Do not ask before the tools of --agent are called.")
@click.option(
    "--minutes",
    type=Number(min=0, min_open=True, max=1440),
    default=1,
    show_default=True,
    metavar="N",
    help="Minutes in which tasks are submitted.",
)
@click.option(
    "--kills",
    type=WholeNumber(0, 10_000),
    metavar="N",
    help="Kills of worker processes. Default: 6 each minute.",
)
@click.option(
    "--workers", type=WholeNumber(1, 64), metavar="N", help="Worker processes. Default: 3, on SQLite 1."
)
@click.option(
    "--rate",
    type=Number(min=0, min_open=True, max=1000),
    default=5,
    show_default=True,
    metavar="N",
    help="Tasks each second, at most.",
)
@click.option(
    "--seed",
    type=WholeNumber(0, 2**31 - 1),
    metavar="N",
    help="The seed of tasks and faults. Default: by chance.",
)
@click.option(
    "--replay",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Run the seeds and settings of a prove-DATE.json again.",
)
@click.option(
    "--beside",
    is_flag=True,
    help="Run although the schema holds the tasks of a mesh, or the broker retained topics of others.",
)
@click.option(
    "--to",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Folder of the report (default: this one).",
)
@json_option
@data_option
@trust_option
def prove(
    agent: str | None,
    text: str,
    tools: tuple[str, ...],
    yes: bool,
    broker: str | None,
    database: str | None,
    data: Path | None,
    folder: Path,
    as_json: bool,
    beside: bool,
    replay: Path | None,
    **numbers: Any,
) -> int:
    """Prove the promises on a store: tasks run on it, and processes are killed.

    Starts workers of its own, in a schema of its own on PostgreSQL or a folder of its own on SQLite, with a
    simulated model that costs nothing. With --model a real one answers plain tasks, within --budget. With
    --broker half of the tasks are published to it, below a prefix of its own. Kills and freezes the workers
    and cuts their connections, then judges: each accepted task ended once, no step was repeated, no cent is
    off, no message was lost or became two tasks. Writes prove-DATE.json, notes the result for mesh doctor,
    and removes all else. Exit status 0 if all held, 1 if a
    promise broke, 2 if nothing could be proved.

    With --agent your own agent runs once for each of its steps, on a simulated model that calls each tool,
    and is killed there. Its tools are called for real, up to twice in each run. Says which need a check,
    which gave another result when they were repeated, and what a crash would ask people.
    """
    if agent is not None:
        return _prove_agent(agent, text, tools, yes=yes, data=data, as_json=as_json)
    from meshwright.component import load_settings
    from meshwright.core.errors import MeshError, in_one_line
    from meshwright.parts.proving.history import keep_result, store_name
    from meshwright.parts.proving.report import make_report, read_options, report_lines, write_report

    try:
        settings = load_settings(Path(), data_dir=data)
        if numbers["model"] is not None and numbers["budget_usd"] is None:
            raise MeshError("Calls of --model cost money", remedy="Say with --budget how much they may cost")
        if database is None and settings.database is not None:
            database = settings.database.get_secret_value()
        options = read_options(replay) if replay else _options(is_shared=database is not None, **numbers)
        if options.model:
            _check_model(settings, options)
        say(
            f"{options.tasks:,} tasks in {options.minutes:g} min, {options.kills} kills, "
            f"seed {options.seed}; Ctrl-C ends it and leaves nothing",
            err=True,
        )
        findings = asyncio.run(
            _run(
                options,
                Path.cwd() / settings.data_dir / "prove",
                database,
                broker=None if broker is None else (settings, broker),
                beside=beside,
            )
        )
        report = make_report(findings, options)
        path = write_report(report, folder, settings.data_dir)
        proved = [store_name(database)]
        if findings.broker is not None and findings.broker.messages:
            proved.append(findings.broker.address)
        with suppress(OSError):  # the report is written; doctor then says that the store is not proved
            keep_result(settings.data_dir, proved, report, path)
    except MeshError as error:
        say(f"mesh: cannot prove: {in_one_line(error.message, error.remedy)}", err=True)
        return _CANNOT_PROVE
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("mesh: interrupted; nothing was judged, nothing is left", err=True)
        return _INTERRUPTED
    if as_json:
        echo_json(report)
    else:
        for line in report_lines(report):
            say(line)
    say(f"written    {path}", err=as_json)
    return 0 if report["held"] else 1


def _prove_agent(
    agent_id: str, text: str, tools: tuple[str, ...], *, yes: bool, data: Path | None, as_json: bool
) -> int:
    from meshwright.component import load_settings
    from meshwright.core.errors import MeshError, in_one_line
    from meshwright.mesh.app import load_agents
    from meshwright.testing.crash_trial import try_crashes
    from meshwright.testing.crash_worker import own_tools

    try:
        settings = load_settings(Path(), data_dir=data)
        require_trust(settings)
        agents = {one.agent_id: one for one in load_agents(settings, Path())}
        if agent_id not in agents:
            problem = f"there is no agent {agent_id!r}; there are {', '.join(agents)}"
            raise MeshError(problem, remedy="Name one of them with --agent")
        tools = tools or own_tools(agents[agent_id])
        names = ", ".join(tools) or "each that it offers"
        question = f"Tools called for real, up to twice in each run: {names}"
        if not yes and not sys.stdin.isatty():
            raise MeshError(question, remedy="Say with --yes that they may be called")
        if not yes and not click.confirm(f"{question}. Go on?", err=True):
            return _CANNOT_PROVE
        folder = Path.cwd() / settings.data_dir / "prove"
        trial = try_crashes(folder, agent_id, text, tools, lambda line: say(line, err=True))
        report = asyncio.run(_ended_by_sigterm(trial))
    except MeshError as error:
        say(f"mesh: cannot prove: {in_one_line(error.message, error.remedy)}", err=True)
        return _CANNOT_PROVE
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("mesh: interrupted; nothing was judged, nothing is left", err=True)
        return _INTERRUPTED
    remarks = dict(report.remarks())
    if as_json:
        echo_json({"agent": agent_id, "kills": len(report.runs), "held": report.held, "steps": remarks})
        return 0 if report.held else 1
    say(f"{agent_id}: {len(report.runs)} kills, before and behind each of its steps")
    for name, remark in remarks.items():
        say(f"{name:<13}  {remark or 'goes on by itself'}", indent=15)
    return 0 if report.held else 1


def _check_model(settings: Settings, options: TrialOptions) -> None:
    """Refuse a model that cannot be called within a budget. Raises MeshError."""
    from meshwright.parts.proving.paid import PaidCalls
    from meshwright.parts.proving.records import Records

    require_trust(settings)
    PaidCalls.from_project(Path(), options.model, Decimal(options.budget_usd), Records(Path()))


def _options(
    *,
    is_shared: bool,
    minutes: float,
    kills: int | None,
    workers: int | None,
    rate: float,
    seed: int | None,
    model: str | None,
    budget_usd: str | None,
) -> TrialOptions:
    from meshwright.parts.proving.trial import TrialOptions

    return TrialOptions(
        minutes=minutes,
        kills=max(1, round(minutes * _KILLS_PER_MINUTE)) if kills is None else kills,
        workers=workers or (_WORKERS if is_shared else 1),
        rate=rate,
        seed=secrets.randbits(31) if seed is None else seed,
        model=model or "",
        budget_usd=budget_usd or "0",
    )


def _run(
    options: TrialOptions, folder: Path, database: str | None, **more: Any
) -> Coroutine[Any, Any, Findings]:
    from meshwright.parts.proving.trial import run_trial

    trial = run_trial(options, folder, database=database, **more, report=lambda line: say(line, err=True))
    return _ended_by_sigterm(trial)


async def _ended_by_sigterm(trial: Coroutine[Any, Any, _ResultT]) -> _ResultT:
    """The result of a trial, which SIGTERM ends as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await trial
