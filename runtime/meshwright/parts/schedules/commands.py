"""`mesh schedules`: the commands that make a schedule, and show one whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from meshwright.component import Column
from meshwright.kit import (
    AMOUNT,
    DURATION,
    JSON_OBJECT,
    Connection,
    Document,
    Target,
    WholeNumber,
    completes,
    completes_ids,
    dollars,
    echo_json,
    from_stdin,
    json_option,
    labelled,
    local_time,
    mesh_options,
    resource_group,
    table,
    talk,
)
from meshwright.parts.schedules.display import SCHEDULES, addressee, render_result, when

_PREVIEWED = 3


def _cost(run: Document) -> str:
    return dollars(run["cost_usd"]) if run.get("outcome") else ""


_RUNS = (
    Column("due", "due_at", local_time),
    Column("run", "status"),
    Column("outcome", "outcome"),
    Column("cost", write=_cost),
    Column("", write=render_result, cut=1),
)
schedules = resource_group(SCHEDULES)


@schedules.command("show")
@click.argument("schedule_id", metavar="ID", shell_complete=completes_ids(SCHEDULES))
@click.option("--next", "count", type=WholeNumber(1, 100), default=_PREVIEWED, help="How many due times.")
@json_option
@mesh_options
def _show_schedule(target: Target, schedule_id: str, count: int, as_json: bool) -> None:
    """Show a schedule, when it is due next, and its last 20 runs."""

    async def find(mesh: Connection) -> tuple[Document, list[Document]]:
        schedule = await mesh.client.call("GET", SCHEDULES.item_path(schedule_id))
        return schedule, await _due(mesh, schedule_id, count)

    schedule, due = talk(target, find, need="state")
    if as_json:
        echo_json({**schedule, "next": due})
        return
    click.echo(_page(schedule, due))
    if schedule["history"]:
        click.echo(f"\n{table(_RUNS, schedule['history'])}")


@schedules.command("create")
@click.argument("schedule_id", metavar="ID")
@click.option("--cron", metavar="EXPRESSION", help='Five fields, as "0 7 * * 1-5".')
@click.option("--every", "every_seconds", type=DURATION, help="An interval, as 15m or 1h30m.")
@click.option("--at", metavar="TIME", help="Once, as 2026-12-01T09:00.")
@click.option("--zone", metavar="ZONE", default="UTC", show_default=True, help="As Europe/Berlin.")
@click.option(
    "--agent", "agent_id", metavar="ID", shell_complete=completes("agent"), help="Whose task it is."
)
@click.option(
    "--capability",
    metavar="NAME",
    shell_complete=completes("capability"),
    help="Or what the task needs; the best agent for it gets it.",
)
@click.option("--text", callback=from_stdin, help="The request; - reads it from stdin.")
@click.option("--payload", type=JSON_OBJECT, help="The task's payload, in place of --text.")
@click.option("--thread", "thread_id", metavar="ID", help="The conversation that all runs belong to.")
@click.option("--timeout", type=DURATION, help="What one step may take.")
@click.option("--deadline", type=DURATION, help="What one run may take.")
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
@click.option("--jitter", "jitter_seconds", type=DURATION, help="How late a run may be, by chance.")
@click.option("--until", metavar="TIME", help="When it ends.")
@click.option("--max-runs", type=WholeNumber(1), help="After how many runs it ends.")
@click.option("--paused/--active", default=None, help="Whether it waits to be resumed.")
@click.option("--replace", is_flag=True, help="Change the schedule where there is one.")
@json_option
@mesh_options
def _create(target: Target, schedule_id: str, replace: bool, as_json: bool, **options: Any) -> None:
    """Make a schedule, or change it with --replace.

    As in: mesh schedules create digest --cron "0 7 * * 1-5" --zone Europe/Berlin --agent digest-agent
    """
    fields = {name: value for name, value in options.items() if value is not None}
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
            schedule = await mesh.client.call("PUT", SCHEDULES.item_path(schedule_id), body=body)
        else:
            schedule = await mesh.client.call("POST", "/schedules", body={"id": schedule_id, **body})
        return schedule, await _due(mesh, schedule_id, _PREVIEWED)

    schedule, due = talk(target, make, need="change", begins=True)
    if as_json:
        echo_json({**schedule, "next": due})
    else:
        click.echo(_page(schedule, due))


async def _due(mesh: Connection, schedule_id: str, count: int) -> list[Document]:
    return await mesh.client.items(f"{SCHEDULES.item_path(schedule_id)}/next", count=count)


def _page(schedule: Document, due: Sequence[Document]) -> str:
    task = schedule.get("task") or {}
    catch_up = schedule["catch_up"]
    rows = [
        ("schedule", schedule["id"] + (" (of mesh.toml)" if schedule["declared"] else "")),
        ("status", schedule["status"]),
        ("when", when(schedule)),
        (
            "next",
            ", ".join(local_time(time["local"], schedule["zone"]) for time in due)
            if schedule["status"] == "active"
            else "",
        ),
        ("agent", addressee(schedule)),
        ("text", (task.get("payload") or {}).get("text", "")),
        ("catch up", f"all, at most {schedule['max_catch_up']}" if catch_up == "all" else catch_up),
        ("overlap", schedule["overlap"] + (f", {schedule['pending']} wait" if schedule["pending"] else "")),
        ("jitter", f"{schedule['jitter_seconds']:g} s" if schedule["jitter_seconds"] else ""),
        ("ends", local_time(schedule.get("until"))),
        (
            "due runs",
            f"{schedule['runs']:,}" + (f" of {most:,}" if (most := schedule.get("max_runs")) else ""),
        ),
        ("made by", f"{schedule['created_by']}, {local_time(schedule['created_at'])}"),
    ]
    return labelled(row for row in rows if row[1])
