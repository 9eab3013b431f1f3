"""`mesh schedules`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import click

from meshwright.cli.budgets import AMOUNT
from meshwright.cli.connect import Connection, talk
from meshwright.cli.options import Target, WholeNumber, from_stdin, json_option, mesh_options
from meshwright.cli.output import Column, Document, dollars, echo_json, local_time, printable, show, table
from meshwright.cli.tasks import JSON_OBJECT

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,3})?[smhd])+")
_PART = re.compile(r"([0-9.]+)([smhd])")
_LABEL_WIDTH = 11
_PREVIEWED = 3


class _Duration(click.ParamType[float]):
    """A duration, in seconds."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it: 90s, 15m, 1h30m, 1d."""
        if not _DURATION.fullmatch(str(value)):
            self.fail(f"{value!r} is no duration, such as 90s, 15m, 1h30m or 1d", param, ctx)
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(str(value)))


_DURATIONS = _Duration()


def _when(schedule: Document) -> str:
    if schedule.get("cron"):
        return f"{schedule['cron']} ({schedule['zone']})"
    return f"at {local_time(schedule['at'])}" if schedule.get("at") else f"every {_span(schedule)}"


def _span(schedule: Document) -> str:
    seconds = schedule["every_seconds"]
    unit = next(unit for unit in "dhms" if seconds % _UNITS[unit] == 0 or unit == "s")
    return f"{seconds / _UNITS[unit]:g}{unit}"


def _whom(schedule: Document) -> str:
    return schedule.get("agent_id") or schedule.get("capability") or ""


def _last(schedule: Document) -> str:
    run = schedule.get("last_run")
    return f"{run['status']} {local_time(run['at'])}" if run else ""


def _cost(run: Document) -> str:
    return dollars(run["cost_usd"]) if run.get("outcome") else ""


def _came_of_it(run: Document) -> str:
    if run["status"] == "started":
        return f"task {run['task_id']}"
    return run.get("reason") or (f"{run['count']:,} due times" if run["count"] > 1 else "")


_SCHEDULES = (
    Column("schedule", "id"),
    Column("status", "status"),
    Column("when", write=_when, cut=2),
    Column("next", "next_due_at", local_time),
    Column("agent", write=_whom, cut=3),
    Column("last run", write=_last, cut=1),
)
_RUNS = (
    Column("due", "due_at", local_time),
    Column("run", "status"),
    Column("outcome", "outcome"),
    Column("cost", write=_cost),
    Column("", write=_came_of_it, cut=1),
)


@click.group(invoke_without_command=True)
@json_option
@mesh_options
@click.pass_context
def schedules(ctx: click.Context, target: Target, as_json: bool) -> None:
    """List schedules, make them, pause, resume and run them.

    A schedule submits a task at its due times, while the mesh runs.
    """
    if ctx.invoked_subcommand is None:
        _list(target, as_json)


@schedules.command("list")
@json_option
@mesh_options
def list_schedules(target: Target, as_json: bool) -> None:
    """List schedules with their next due time and the result of the last."""
    _list(target, as_json)


def _list(target: Target, as_json: bool) -> None:
    async def find(mesh: Connection) -> list[Document]:
        found, cursor = list[Document](), None
        while True:
            page = await mesh.client.call("GET", "/schedules", limit=500, cursor=cursor)
            found += page["items"]
            if (cursor := page.get("cursor")) is None:
                return found

    found = talk(target, find, need="state")
    show(found, _SCHEDULES, as_json=as_json, empty="there are no schedules; mesh schedules create makes one")


@schedules.command("show")
@click.argument("schedule_id", metavar="ID")
@click.option("--next", "count", type=WholeNumber(1, 100), default=_PREVIEWED, help="How many due times.")
@json_option
@mesh_options
def show_schedule(target: Target, schedule_id: str, count: int, as_json: bool) -> None:
    """Show a schedule, when it is due next, and its last 20 runs."""

    async def find(mesh: Connection) -> tuple[Document, list[Document]]:
        found = await mesh.client.call("GET", _path(schedule_id))
        return found, await _due(mesh, schedule_id, count)

    found, due = talk(target, find, need="state")
    if as_json:
        echo_json({**found, "next": due})
        return
    click.echo(_page(found, due))
    if found["history"]:
        click.echo(f"\n{table(_RUNS, found['history'])}")


@schedules.command()
@click.argument("schedule_id", metavar="ID")
@click.option("--cron", metavar="EXPRESSION", help='Five fields, as "0 7 * * 1-5".')
@click.option("--every", "every_seconds", type=_DURATIONS, help="An interval, as 15m or 1h30m.")
@click.option("--at", metavar="TIME", help="Once, as 2026-12-01T09:00.")
@click.option("--zone", metavar="ZONE", default="UTC", show_default=True, help="As Europe/Berlin.")
@click.option("--agent", "agent_id", metavar="ID", help="Whose task it is.")
@click.option("--capability", metavar="NAME", help="Or what the task needs; the best agent for it gets it.")
@click.option("--text", callback=from_stdin, help="The request; - reads it from stdin.")
@click.option("--payload", type=JSON_OBJECT, help="The task's payload, in place of --text.")
@click.option("--thread", "thread_id", metavar="ID", help="The conversation that all runs belong to.")
@click.option("--timeout", type=_DURATIONS, help="What one step may take.")
@click.option("--deadline", type=_DURATIONS, help="What one run may take.")
@click.option("--budget", "budget_usd", type=AMOUNT, help="Dollars that each run may cost.")
@click.option(
    "--catch-up",
    type=click.Choice(["none", "last", "all"]),
    help="Which due times are made up that passed while the mesh was down. Default: last.",
)
@click.option("--max-catch-up", type=WholeNumber(1, 100), help="With `all`, at most so many. Default: 10.")
@click.option(
    "--overlap",
    type=click.Choice(["skip", "queue", "allow", "cancel_other"]),
    help="What a run does while the one before is open. Default: skip.",
)
@click.option("--jitter", "jitter_seconds", type=_DURATIONS, help="How late a run may be, by chance.")
@click.option("--until", metavar="TIME", help="When it ends.")
@click.option("--max-runs", type=WholeNumber(1), help="After how many runs it ends.")
@click.option("--paused/--active", default=None, help="Whether it waits to be resumed.")
@click.option("--replace", is_flag=True, help="Change the schedule where there is one.")
@json_option
@mesh_options
def create(target: Target, schedule_id: str, replace: bool, as_json: bool, **given: Any) -> None:
    """Make a schedule, or change it with --replace.

    As in: mesh schedules create digest --cron "0 7 * * 1-5" --zone Europe/Berlin --agent digest-agent
    """
    fields = {name: value for name, value in given.items() if value is not None}
    if ("text" in fields) and ("payload" in fields):
        raise click.UsageError("give either --text or --payload", click.get_current_context())
    if sum(name in fields for name in ("cron", "every_seconds", "at")) != 1:
        raise click.UsageError("give one of --cron, --every and --at", click.get_current_context())
    if ("agent_id" in fields) == ("capability" in fields):
        raise click.UsageError("give either --agent or --capability", click.get_current_context())
    if "text" in fields:
        fields["payload"] = {"text": fields.pop("text")}
    of_task = ("agent_id", "capability", "payload", "thread_id", "timeout", "deadline", "budget_usd")
    body = {"task": {name: fields.pop(name) for name in of_task if name in fields}, **fields}

    async def make(mesh: Connection) -> tuple[Document, list[Document]]:
        if replace:
            made = await mesh.client.call("PUT", _path(schedule_id), body=body)
        else:
            made = await mesh.client.call("POST", "/schedules", body={"id": schedule_id, **body})
        return made, await _due(mesh, schedule_id, _PREVIEWED)

    made, due = talk(target, make, need="change")
    if as_json:
        echo_json({**made, "next": due})
    else:
        click.echo(_page(made, due))


@schedules.command()
@click.argument("schedule_id", metavar="ID")
@mesh_options
def pause(target: Target, schedule_id: str) -> None:
    """Run nothing until it is resumed. Due times that pass meanwhile are missed."""
    _change(target, schedule_id, "pause")
    click.echo(f"paused: {schedule_id}")


@schedules.command()
@click.argument("schedule_id", metavar="ID")
@mesh_options
def resume(target: Target, schedule_id: str) -> None:
    """Go on, and make up for what was missed as --catch-up says."""
    found = _change(target, schedule_id, "resume")
    due = local_time(found.get("next_due_at"))
    click.echo(f"resumed: {schedule_id}; next {due}" if due else f"resumed: {schedule_id}; it has ended")


@schedules.command()
@click.argument("schedule_id", metavar="ID")
@mesh_options
def run(target: Target, schedule_id: str) -> int:
    """Run it now, whatever is open; its due times stay as they are."""
    found = _change(target, schedule_id, "run")
    click.echo(f"{found['status']}: {printable(_came_of_it(found))}", err=found["status"] != "started")
    return 0 if found["status"] == "started" else 1


@schedules.command()
@click.argument("schedule_id", metavar="ID")
@mesh_options
def delete(target: Target, schedule_id: str) -> None:
    """Delete a schedule. Tasks that it has started go on."""

    async def end(mesh: Connection) -> None:
        await mesh.client.call("DELETE", _path(schedule_id))

    talk(target, end, need="change")
    click.echo(f"deleted: {schedule_id}")


def _change(target: Target, schedule_id: str, what: str) -> Document:
    async def change(mesh: Connection) -> Document:
        return await mesh.client.call("POST", f"{_path(schedule_id)}/{what}")

    return talk(target, change, need="change")


async def _due(mesh: Connection, schedule_id: str, count: int) -> list[Document]:
    return (await mesh.client.call("GET", f"{_path(schedule_id)}/next", count=count))["items"]


def _path(schedule_id: str) -> str:
    return f"/schedules/{quote(schedule_id, safe='')}"


def _page(schedule: Document, due: Sequence[Document]) -> str:
    """A schedule as a person reads it."""
    task = schedule.get("task") or {}
    catch_up = schedule["catch_up"]
    rows = [
        ("schedule", schedule["id"] + (" (of mesh.toml)" if schedule["declared"] else "")),
        ("status", schedule["status"]),
        ("when", _when(schedule)),
        ("next", ", ".join(_shown(time) for time in due) if schedule["status"] == "active" else ""),
        ("agent", _whom(schedule)),
        ("text", (task.get("payload") or {}).get("text", "")),
        ("catch up", f"all, at most {schedule['max_catch_up']}" if catch_up == "all" else catch_up),
        ("overlap", schedule["overlap"] + (f", {schedule['pending']} wait" if schedule["pending"] else "")),
        ("jitter", f"{schedule['jitter_seconds']:g} s" if schedule["jitter_seconds"] else ""),
        ("ends", local_time(schedule.get("until"))),
        ("runs", f"{schedule['runs']:,}" + (f" of {most:,}" if (most := schedule.get("max_runs")) else "")),
        ("made by", f"{schedule['created_by']}, {local_time(schedule['created_at'])}"),
    ]
    return "\n".join(f"{label:<{_LABEL_WIDTH}} {printable(str(text))}" for label, text in rows if text)


def _shown(time: Document) -> str:
    """A due time as clocks in the schedule's zone show it."""
    return datetime.fromisoformat(time["local"]).isoformat(" ", "seconds")
