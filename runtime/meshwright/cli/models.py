"""`mesh models`, `mesh models route` and `mesh models test`."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.cli.connect import Connection, talk
from meshwright.cli.options import data_option, json_option
from meshwright.cli.trust import require_trust
from meshwright.sql.folder import make_private, read_private, write_private

if TYPE_CHECKING:
    from meshwright.cli.model_desk import ModelDesk
    from meshwright.cli.output import Document
    from meshwright.messages import Event
    from meshwright.settings import Settings

SOURCES = {"file": "", "list": " (list)", "local": " (local)", "default": " (default)"}
_HEALTH_FILE = "models.json"
CALLS = 1000  # the last ones, from which health is read


@click.group(invoke_without_command=True)
@json_option
@data_option
@click.pass_context
def models(ctx: click.Context, as_json: bool, data: Path | None) -> None:
    """Show groups, deployments, tags and prices; say where a call goes.

    Prices are dollars per million tokens, in and out. Health is that of the
    last call or `mesh models test`.
    """
    if ctx.invoked_subcommand is not None:
        return
    settings, desk = _desk(data)
    found = asyncio.run(desk.overview(_health(settings, data)))
    click.echo(_json(found) if as_json else _overview(found))


@models.command()
@click.option("--model", "group", default="default", show_default=True, metavar="GROUP", help="The group.")
@click.option("--tags", default="", metavar="TAG,TAG", help="The tags of the call.")
@json_option
def route(group: str, tags: str, as_json: bool) -> None:
    """Say which deployments a call would reach, what follows, and why."""
    _, desk = _desk(None)
    wanted = [tag.strip() for tag in tags.split(",") if tag.strip()]
    found = desk.explain(group, wanted)
    click.echo(_json(found) if as_json else "\n".join(_explained(found, 0)))


@models.command()
@click.option("--model", "group", metavar="GROUP", help="Only the deployments of this group.")
@json_option
@data_option
def test(group: str | None, as_json: bool, data: Path | None) -> int:
    """Call each usable deployment plainly, streamed and with a tool.

    Each call is of a few tokens. Exit status 1 if one fails."""
    settings, desk = _desk(data)
    found = asyncio.run(desk.test(group))
    _keep_health(settings, found)
    click.echo(_json(found) if as_json else _tested(found))
    return 0 if all(each["ok"] for each in found) else 1


def _desk(data: Path | None) -> tuple[Settings, ModelDesk]:
    from meshwright.cli.model_desk import ModelDesk
    from meshwright.settings import load_settings

    settings = load_settings(Path(), data_dir=data)
    require_trust(settings)
    return settings, ModelDesk(settings, Path())


def _json(found: object) -> str:
    return json.dumps(found, ensure_ascii=False, indent=2)


def _overview(found: Document) -> str:
    from meshwright.cli.output import table

    heads = ["group", "deployment", "tags", "in", "out", "health", "missing"]
    rows = [
        [
            group["group"],
            each["model"],
            ", ".join(each["tags"]),
            *_price(each["price"]),
            _state(each["health"]),
            ", ".join(each["missing"]),
        ]
        for group in found["groups"]
        for each in group["deployments"]
    ]
    parts = [f"answers: {found['answers']}"]
    if rows:
        parts.append(table(heads, rows, shorten=["tags", "health", "deployment", "group"]))
    if chains := [line for group in found["groups"] for line in _chains(group)]:
        parts.append("\n".join(chains))
    parts += [f"warning: {each}" for each in found["warnings"]]
    return "\n\n".join(parts)


def _price(price: Document | None) -> list[str]:
    if price is None:
        return ["?", "?"]
    return [price["input"], f"{price['output']}{SOURCES[price['source']]}"]


def _state(health: Document) -> str:
    from meshwright.cli.output import local_time

    return f"{health['status']} {local_time(health.get('at'))}".strip()


def _chains(group: Document) -> list[str]:
    words = {
        "fallbacks": "falls back to",
        "context_window_fallbacks": "if too long, to",
        "content_policy_fallbacks": "if forbidden, to",
    }
    return [
        f"{group['group']} {words[kind]} {', then '.join(groups)}"
        for kind, groups in group["fallbacks"].items()
        if groups
    ]


def _explained(found: Document, depth: int) -> list[str]:
    head = f"{found['when']}: " if found["when"] else ""
    lines = [f"{head}group {found['group']}: {found['why']}"]
    lines += [f"  {each['model']}  {each['why']}" for each in [*found["asked"], *found["instead"]]]
    lines += [f"  not {each['model']}: set {', '.join(each['missing'])}" for each in found["left_out"]]
    if found["problem"]:
        lines.append(f"  No deployment is available: {found['problem']}")
    lines = ["  " * depth + line for line in lines]
    return [*lines, *(line for each in found["fallbacks"] for line in _explained(each, depth + 1))]


def _tested(found: list[Document]) -> str:
    from meshwright.cli.output import table

    return table(["deployment", "", "time", "tokens", "cost", ""], [_test_row(each) for each in found])


def _test_row(each: Document) -> list[str]:
    seconds = f"{each['latency_ms'] / 1000:.2f} s"
    if not each["ok"]:
        return [each["deployment"], "failed", seconds, "", "", each["error"]["message"]]
    usage, cost = each["usage"], each["cost_usd"]
    tokens = f"{usage['prompt_tokens']} + {usage['completion_tokens']}"
    model = each["model"] if each["tools"] else f"{each['model']} (takes no tools)"
    return [each["deployment"], "ok", seconds, tokens, "?" if cost is None else _dollars(cost), model]


def _dollars(text: str) -> str:
    return f"${Decimal(text).normalize():f}"


def _health(settings: Settings, data: Path | None) -> dict[str, Document]:
    """How each deployment was last, by its id: when it was tested, or called by a mesh since."""
    from datetime import datetime

    states = [*_tested_health(settings).items(), *_called(settings, data).items()]
    return dict(sorted(states, key=lambda each: datetime.fromisoformat(each[1]["at"])))


def _called(settings: Settings, data: Path | None) -> dict[str, Document]:
    from meshwright.errors import HostError

    async def last_calls(mesh: Connection) -> list[Event]:
        return await mesh.client.events(limit=CALLS, event_type="model.called")

    if not settings.data_dir.is_dir():
        return {}
    try:
        events = talk(None, data, last_calls)
    except HostError:  # the data is in use, or cannot be read: what was called is not known
        return {}
    calls = [(event.payload, event.time.isoformat()) for event in events]
    return {
        call["deployment"]: {"status": call.get("error") or "ok", "at": at}
        for call, at in calls
        if call.get("deployment") and call.get("outcome") != "cancelled"
    }


def _tested_health(settings: Settings) -> dict[str, Document]:
    try:
        known = json.loads(read_private(settings.data_dir / _HEALTH_FILE))
    except (OSError, ValueError):  # nobody has tested here, or the file is none of ours
        return {}
    return known if isinstance(known, dict) else {}


def _keep_health(settings: Settings, found: list[Document]) -> None:
    from datetime import UTC, datetime

    now = datetime.now(UTC).isoformat()
    states = {
        each["deployment"]: {"status": "ok" if each["ok"] else each["error"]["type"], "at": now}
        for each in found
    }
    path = make_private(settings.data_dir) / _HEALTH_FILE
    write_private(path, _json({**_tested_health(settings), **states}))
