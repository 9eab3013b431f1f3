"""`mesh status`, `mesh watch` and `mesh events`: the present of a mesh, and what happened in it.

`mesh watch` and lists that follow draw screens that change; elsewhere each change is a line.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from meshwright.agents.display import AGENTS
from meshwright.agents.event_types import AgentMissing
from meshwright.console.connect import Connection, talk, whole_id
from meshwright.console.filters import ENDED, OPEN, REASON, TASKS, filter_options, given_filter
from meshwright.console.nouns import completes
from meshwright.console.options import Target, follow_option, json_option, limit_option, mesh_options
from meshwright.console.output import (
    document,
    echo_json,
    event_line,
    is_screen,
    styled,
    table,
    terminal_width,
)
from meshwright.core.display import (
    MORE,
    Column,
    Document,
    age,
    ahead,
    dollars,
    next_try,
    short,
    short_id,
    time_of_day,
)
from meshwright.core.errors import HostError, NotFound
from meshwright.core.event_lines import NOISE, find_tries

if TYPE_CHECKING:
    from meshwright.client import EventFields
    from meshwright.core.events import Event
    from meshwright.core.messages import TaskStatus

_NO_TRENDS: Document = {"agents": []}
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_GIGABYTE = 1e9
_MAX_STUCK = 5  # shown
_LOOK_SECONDS = 1.0  # between two looks
_SOME_EVENTS, _MAX_EVENTS = 50, 1000
_NOISE = (*NOISE, "audit.recorded")  # of which each command of an operator makes some
_OPEN: tuple[TaskStatus, ...] = ("running", "waiting", "dispatched", "accepted")
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_OTHER_SCREEN, _OWN_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


def _ago(time: str | None) -> str:
    return "" if time is None else f"{age(time)} ago"


def _left_alone(deployment: Document) -> str:
    status = deployment.get("status")
    return f"refused with {status}" if status else "cooling down"


def _share(amount: str, limit: str, write: Callable[[int], str]) -> Callable[[Document], str]:
    def write_share(tenant: Document) -> str:
        most = tenant.get(limit)
        return write(tenant[amount]) + ("" if most is None else f" of {write(most)}")

    return write_share


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


_WAITS = (
    Column("waits for", "kind"),
    Column("waits", "count"),
    Column("oldest", "oldest", _ago),
    Column("next due", "next_due", ahead),
    Column("reason", "reason", short),
)
_DEPLOYMENTS = (
    Column("left alone", "deployment"),
    Column("is", write=_left_alone),
    Column("since", "since", _ago),
    Column("next try", "until", next_try),
    Column("reason", "reason", short),
)
_HELD = (
    Column("held worker", "worker"),
    Column("agents", "agents", ", ".join),
    Column("since", "since", _ago),
    Column("reason", "reason", short),
)
_PROJECTIONS = (
    Column("list", "name"),
    Column("stands at", "seq"),
    Column("next try", "retry_at", ahead),
    Column("error", "error", short),
)
_LEFT_OUT = (Column("tool left out", "tool"), Column("of", "toolset"), Column("reason", "reason", cut=1))
_LOSSES = (
    Column("database came back older", "at"),
    Column("last event that it had", "last_seq"),
    Column("events are gone up to", "lost_until_seq"),
)
_EMPTIED = (Column("state store came back empty", "at"), Column("open tasks that are gone", "open_tasks"))
_TENANTS = (
    Column("tenant", "tenant_id"),
    Column("open tasks", write=_share("open_tasks", "max_open_tasks", "{:,}".format)),
    Column("stored", write=_share("stored_bytes", "max_storage", _megabytes)),
)


@click.command()
@json_option
@mesh_options
def status(target: Target, as_json: bool) -> None:
    """Show what is open, what waits, which models are away, and figures of agents."""

    async def ask(mesh: Connection) -> Document:
        view = document(await mesh.client.status())
        with suppress(NotFound):  # a mesh without the part
            view["figures"] = await mesh.client.call("GET", "/figures")
            view["trends"] = await mesh.client.call("GET", "/figures/trends?hours=2")
        return view

    view = talk(target, ask)
    echo_json(view) if as_json else click.echo(status_text(view))


def status_text(status: Document) -> str:
    """The text of `mesh status`."""
    counts = status["tasks"]
    names = [name for name in _OPEN if name in counts] + sorted({*counts} - {*_OPEN})
    by_status = ", ".join(f"{counts[name]:,} {name}" for name in names)
    total = sum(counts.values())
    state = status.get("state", "working")
    parts = [] if state == "working" else [f"{state}: nothing begins before mesh release"]
    parts += [f"open tasks: {total:,} ({by_status})" if total else "no open tasks"]
    parts += [failed] if (failed := failed_text(status.get("trends") or _NO_TRENDS)) else []
    parts += [table(_WAITS, status["waits"])] if status["waits"] else []
    missing = [AgentMissing.from_payload(agent).sentence for agent in status.get("missing") or ()]
    parts += ["\n".join(missing)] if missing else []
    parts += [table(_DEPLOYMENTS, status["deployments"])] if status["deployments"] else []
    parts += [table(_HELD, status["held"])] if status.get("held") else []
    parts += [table(_PROJECTIONS, status["projections"])] if status.get("projections") else []
    parts += [table(_LEFT_OUT, status["left_out"])] if status.get("left_out") else []
    parts += [table(_LOSSES, status["losses"])] if status.get("losses") else []
    parts += [table(_EMPTIED, status["emptied"])] if status.get("emptied") else []
    parts += ["\n".join(lines)] if (lines := _brokers(status.get("brokers") or ())) else []
    uses = status.get("tenants", ())
    has_limit = any(use.get(limit) is not None for use in uses for limit in ("max_open_tasks", "max_storage"))
    parts += [table(_TENANTS, uses)] if has_limit or len(uses) > 1 else []
    parts += figures_text(status["figures"]) if "figures" in status else []
    return "\n\n".join(parts)


def figures_text(figures: Document) -> list[str]:
    """The tables of agents, models and stuck attempts, and a line for dead letters, disk and workers."""
    now = datetime.fromisoformat(figures["at"])
    agents = [agent for agent in figures["agents"] if _has_figures(agent)]
    models = [model for model in figures["models"] if model["calls"] or not model["well"]]
    stuck = figures["stuck"][:_MAX_STUCK]
    parts = [table(_agent_columns(now), agents)] if agents else []
    parts += [table(_MODELS, models)] if models else []
    parts += [table(_STUCK, stuck)] if stuck else []
    lines = [
        *_unreached(figures["parked"], now),
        *_letters(figures["dead_letters"]),
        *_unsent(figures.get("unsent_calls") or {}),
        *_disk(figures["disk"]),
        *_workers(figures["workers"]),
        *(["costs of today: still being summed up"] if figures.get("lacks_costs") else []),
    ]
    return [*parts, "\n".join(lines)] if lines else parts


def _brokers(brokers: Sequence[Document]) -> list[str]:
    """Lines for MQTT brokers that are away, lack something or have lost messages."""
    lines: list[str] = []
    for broker in brokers:
        if not broker["connected"]:
            lines.append(f"{broker['broker']}: cut off for {age(broker['since'])}: {broker['reason']}")
        if broker.get("session_lost_at"):
            lines.append(f"{broker['broker']}: lost messages {_ago(broker['session_lost_at'])}")
        lines += [f"{broker['broker']}: {limit}" for limit in broker["limits"]]
    return lines


def _unreached(parked: Sequence[Document], now: datetime) -> list[str]:
    """A line for open questions that were shown to nobody who may answer them."""
    waits = [wait for wait in parked if wait.get("unreached")]
    if not waits:
        return []
    count = sum(wait["unreached"] for wait in waits)
    oldest = min(datetime.fromisoformat(wait["unreached_since"]) for wait in waits)
    age = _duration((now - oldest).total_seconds())
    return [f"questions that reached nobody: {count:,}, the oldest {age} ago (mesh inbox)"]


def _agent_columns(now: datetime) -> tuple[Column, ...]:
    def age(time: str | None) -> str:
        return "" if time is None else _duration((now - datetime.fromisoformat(time)).total_seconds())

    return (
        Column("agent", "agent_id", cut=7, least=12),
        Column("state", "state", cut=6),
        Column("waiting", "waiting", _count),
        Column("oldest", "oldest", age, cut=2),
        Column("running", write=_running),
        Column("parked", "parked", _count, cut=3),
        Column("stuck", "stuck", _count),
        Column("/min", "rate", _decimal, cut=4, least=4),
        Column("ok", "success", _percent),
        Column("p50", "p50_seconds", _seconds, cut=1, least=4),
        Column("p90", "p90_seconds", _seconds),
        Column("today", write=_today),
    )


def _has_figures(agent: Document) -> bool:
    fields = ("waiting", "running", "parked", "success", "calls_today")
    return any(agent[field] is not None and agent[field] != 0 for field in fields) or agent["success"] == 0


def _count(number: int | None) -> str:
    return f"{number:,}" if number else ""


def _decimal(number: float | None) -> str:
    return "" if not number else f"{number:.2g}" if number < 10 else f"{number:,.0f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.3g} ms" if seconds < 1 else _duration(seconds)


def _duration(seconds: float) -> str:
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), (1, "s"))
    return f"{max(0.0, seconds) / size:.3g} {unit}"


def _running(agent: Document) -> str:
    slots = agent["slots"]
    return f"{agent['running']:,}" if slots is None else f"{agent['running']:,}/{slots:,}"


def _today(agent: Document) -> str:
    if not agent["calls_today"]:
        return ""
    more = f"+{agent['unpriced_today']:,}?" if agent["unpriced_today"] else ""
    cost = Decimal(agent["cost_today_usd"])
    return f"{f'${cost:,.2f}' if cost >= 1 else dollars(cost)}{more}"


def _share_of_calls(field: str) -> Callable[[Document], str]:
    def write(model: Document) -> str:
        return f"{model[field] / model['calls']:.0%}" if model[field] else ""

    return write


def _state(model: Document) -> str:
    if not model["well"]:
        return f"no, next try {next_try(model['until'])}"
    failed = model["failed"]
    return f"failing: {failed} of {failed}" if failed and failed == model["calls"] else "yes"


_MODELS = (
    Column("deployment", "deployment", cut=3, least=16),
    Column("well", write=_state),
    Column("calls", "calls", _count),
    Column("failed", write=_share_of_calls("failed")),
    Column("retried", write=_share_of_calls("retried"), cut=2),
    Column("fallback", write=_share_of_calls("fallbacks")),
    Column("p50", "p50_seconds", _seconds, cut=1),
    Column("p90", "p90_seconds", _seconds),
    Column("reason", "reason", short),
)
_STUCK = (
    Column("stuck", "task_id", short_id),
    Column("agent", "agent_id"),
    Column("runs for", "running_seconds", _seconds),
    Column("p90 of its agent", "p90_seconds", _seconds),
)


def _letters(letters: Document) -> list[str]:
    counts = {
        "task failed" if letters["failed"] == 1 else "tasks failed": letters["failed"],
        "timed out": letters["timed_out"],
        "messages not taken": letters["messages"] or 0,
    }
    text = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return [f"dead letters: {text}"] if text else []


def _unsent(calls: Document) -> list[str]:
    """A line for calls that the circuits let reach no deployment of their group."""
    groups = ", ".join(f"{count:,} of {group}" for group, count in calls.items())
    return [f"calls not sent, as no deployment got any: {groups}"] if groups else []


def failed_text(trends: Document) -> str:
    """A sentence on the tasks that failed since the last full hour, and the agent that has most of them."""
    counts = {
        agent["agent_id"]: sum(hour["failed"] + hour["timed_out"] for hour in agent["hours"])
        for agent in trends["agents"]
    }
    total = sum(counts.values())
    if not total:
        return ""
    agent_id, most = max(counts.items(), key=lambda count: count[1])
    tasks = "1 task has failed" if total == 1 else f"{total:,} tasks have failed"
    share = "all" if most == total else f"{most:,}"
    return f"{tasks} since {time_of_day(trends['since'])}, {share} of {agent_id}: mesh dead-letters"


def _disk(disk: Document | None) -> list[str]:
    if disk is None:
        return []
    free, total, store = (disk[f"{name}_bytes"] / _GIGABYTE for name in ("free", "total", "store"))
    return [f"disk: {free:,.1f} of {total:,.1f} GB free, the store takes {store:,.3f} GB"]


def _workers(workers: list[Document]) -> list[str]:
    slots = [sum(worker["agents"].values()) for worker in workers if worker["lease"] != "expired"]
    rest = f", and {len(workers) - len(slots):,} whose lease has expired" if len(slots) < len(workers) else ""
    return [f"workers: {len(slots):,} with {sum(slots):,} slots{rest}"] if workers else []


@click.command()
@limit_option(10, 100)
@json_option
@mesh_options
def watch(target: Target, limit: int, as_json: bool) -> None:
    """Show a live screen of status, agents, open tasks and events, until Ctrl-C.

    It is printed once with --json, and where stdout is no terminal or a dumb one. --limit is for tasks and
    for events.
    """

    async def show(mesh: Connection) -> None:
        if as_json or not is_screen():
            view = await _look(mesh, limit)
            click.echo(json.dumps(view, ensure_ascii=False) if as_json else "\n".join(_page(mesh, view)))
            return
        mesh.require_running()
        with _screen():
            while True:
                try:
                    lines = _page(mesh, await _look(mesh, limit))
                except HostError as error:  # it may be starting again
                    lines = [_head(mesh), "", styled(f"no answer: {error.message}", fg="red")]
                _redraw(lines)
                await asyncio.sleep(_LOOK_SECONDS)

    talk(target, show)


async def _look(mesh: Connection, limit: int) -> Document:
    """The status, the agents that are not parts of the mesh, the open tasks and the last events."""
    client = mesh.client
    tasks = [task for status in _OPEN for task in await client.tasks(status=status, limit=limit)]
    events = [event for event in await client.events(limit=8 * limit) if event.event_type not in _NOISE]
    return {
        "status": document(await client.status()),
        "agents": [agent for agent in await client.items(AGENTS.path) if agent.get("kind") != "system"],
        "tasks": [document(task) for task in tasks[:limit]],
        "events": [document(event) for event in events[-limit:]],
    }


def _page(mesh: Connection, view: Document) -> list[str]:
    columns, height = shutil.get_terminal_size()
    draws = is_screen()
    parts: list[tuple[str, Sequence[str]]] = [
        ("", status_text(view["status"]).splitlines()),
        ("agents", table(AGENTS.columns, view["agents"]).splitlines() if view["agents"] else ()),
        ("open tasks", table((*TASKS, REASON), view["tasks"]).splitlines() if view["tasks"] else ()),
    ]
    lines = [_head(mesh)]
    for title, section in parts:
        if section:
            lines += ["", *([_title(title)] if title else ()), *section]
    if events := [event_line(event, columns if draws else None) for event in view["events"]]:
        room = max(1, height - len(lines) - 2) if draws else len(events)
        lines += ["", _title("last events"), *events[-room:]]
    return lines


def _title(title: str) -> str:
    return styled(title, bold=True) if sys.stdout.isatty() else title


def _head(mesh: Connection) -> str:
    return f"{mesh.where}  {time_of_day(datetime.now(UTC).isoformat())}"


@contextmanager
def _screen() -> Iterator[None]:
    """A screen of its own within a block, as pagers have; what was there before is back after it."""
    click.echo(_OTHER_SCREEN, nl=False)
    try:
        yield
    finally:
        click.echo(_OWN_SCREEN, nl=False)


def _redraw(lines: Sequence[str]) -> None:
    """Draw the screen from its first line; lines that it has no room for are left out."""
    height = shutil.get_terminal_size().lines
    visible_lines = [*lines[: height - 1], MORE] if len(lines) > height else lines
    click.echo(_HOME + "\n".join(f"{line}{_CLEAR_LINE}" for line in visible_lines) + _CLEAR_BELOW, nl=False)


@click.command()
@follow_option
@click.option(
    "--task", "task_id", metavar="ID", shell_complete=completes("task"), help="Only events of this task."
)
@click.option("--type", "event_type", metavar="TYPE", help="Only this type, such as task.succeeded.")
@click.option(
    "--deployment", metavar="NAME", help="Only calls of models that it answered, or that failed at it."
)
@click.option("--failed-at", metavar="NAME", help="Only calls of which an attempt failed at this deployment.")
@filter_options(*OPEN, *ENDED)
@click.option(
    "--all",
    "also_noise",
    is_flag=True,
    help="Also spans of traces, signed heads of the log, and tries in vain.",
)
@limit_option(None, _MAX_EVENTS, otherwise="the last 50; all of a task or a time")
@json_option
@mesh_options
def events(
    target: Target,
    follow: bool,
    task_id: str | None,
    event_type: str | None,
    also_noise: bool,
    limit: int | None,
    as_json: bool,
    since: str | None,
    until: str | None,
    **of_task: Any,
) -> None:
    """Show events, oldest first.

    An agent is that of the event; all other filters are of its task. Without --all those that only programs
    read are left out, and without --task the tries of tasks that go on waiting at the same step. With --json
    each event is one line of JSON.
    """
    line = partial(json.dumps, ensure_ascii=False) if as_json else partial(event_line, width=terminal_width())

    hidden = () if also_noise or event_type else NOISE
    if follow and until is not None:
        raise click.UsageError("--follow shows what is new: leave out --until", click.get_current_context())

    async def show(mesh: Connection) -> None:
        if follow:
            mesh.require_running()
        task = await whole_id(mesh, task_id) if task_id else None
        fields: Any = {"task_id": task, "event_type": event_type, **given_filter(of_task)}
        newest = await mesh.client.last_seq() if follow else 0
        maximum = limit or (_MAX_EVENTS if task or since else _SOME_EVENTS)
        count = maximum if not hidden else min(_MAX_EVENTS, 2 * maximum)  # so that enough are left
        page = await mesh.client.events(limit=count, since=since, until=until, **fields)
        while count < _MAX_EVENTS and len(page) == count:
            if sum(event.event_type not in hidden for event in page) >= maximum:
                break
            count = min(_MAX_EVENTS, 4 * count)
            page = await mesh.client.events(limit=count, since=since, until=until, **fields)
        if task and not page:
            await mesh.client.task(task)  # raises NotFound: it is no task, or has no such events
        if not page and not follow:
            click.echo(f"no such events; mesh events{mesh.options} shows the last of all", err=True)
        newest = max([newest, *(event.seq or 0 for event in page)])
        shown = [event for event in page if event.event_type not in hidden]
        tries = {*find_tries(shown)} if hidden and not task else set()
        for event in [event for event in shown if event.seq not in tries][-maximum:]:
            click.echo(line(document(event)))
        if follow:
            async with aclosing(_new_events(mesh, newest, fields)) as live:
                async for event in live:
                    if event.event_type not in hidden:
                        click.echo(line(document(event)))

    talk(target, show)


def _new_events(mesh: Connection, newest: int, fields: EventFields) -> AsyncGenerator[Event]:
    task_id = fields.get("task_id")
    if task_id and not any(value for name, value in fields.items() if name != "task_id"):
        return mesh.client.follow(task_id, after_seq=newest)
    return mesh.client.stream(after_seq=newest, **fields)
