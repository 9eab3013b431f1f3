"""`mesh webhooks`: list sources, and try a delivery."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from meshwright.agents.agent import Agent
from meshwright.console.nouns import resource_group
from meshwright.console.options import json_option
from meshwright.console.output import echo_json
from meshwright.console.project import require_trust, trust_option
from meshwright.core.display import Document, printable
from meshwright.core.errors import NotFound, nearest
from meshwright.core.settings import load_settings
from meshwright.edges.sources.display import WEBHOOKS
from meshwright.edges.webhooks.component import Source, load_sources
from meshwright.edges.webhooks.kinds import DeliveryItem, board_event
from meshwright.edges.webhooks.receiver import misfit
from meshwright.edges.webhooks.senders import forge_address
from meshwright.edges.webhooks.settings import WebhooksSettings
from meshwright.mesh.app import load_agents

webhooks = resource_group(WEBHOOKS)


@webhooks.command(name="test")
@click.argument("source")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--event", help="The event's name, where it is in a header: issues, 'Merge Request Hook'.")
@json_option
@trust_option
def _try_delivery(source: str, file: Path, event: str | None, as_json: bool) -> int:
    """Say which rules a delivery matches, and which tasks it would be. Sends and changes nothing.

    FILE holds the body, as JSON; - reads it from stdin. Loads the agents, to compare payloads with what they
    take. Exit status 1 where no rule matches, or a payload does not fit.
    """
    settings = load_settings(Path())
    chosen = _named(source, dict(load_sources(settings[WebhooksSettings])))
    with click.open_file(str(file), "rb") as opened:
        body = opened.read()
    headers = {"content-type": "application/json"}
    if event is not None:
        if not chosen.kind.event_header:
            raise click.UsageError(f"source {source} has the event's name in its body; leave --event out")
        headers[chosen.kind.event_header] = event
    elif chosen.kind.event_header:
        click.echo(
            f"mesh: note: {chosen.settings.kind} names the event in a header: add --event NAME", err=True
        )
    items = chosen.read(headers, body, settings.max_payload_depth)
    require_trust(settings)
    agents = load_agents(settings, Path.cwd())
    deliveries = [_tried(chosen, item, settings.max_payload_bytes, agents) for item in items]
    if as_json:
        echo_json({"events": deliveries})
    else:
        for one in deliveries:
            _show_delivery(chosen, one)
    tasks = [task for one in deliveries for task in one["tasks"]]
    return 0 if tasks and not any(task["refused"] for task in tasks) else 1


def _named(name: str, sources: dict[str, Source]) -> Source:
    if name not in sources:
        near = nearest(name, sources)
        remedy = f"Did you mean {near!r}?" if near else f"mesh.toml has {', '.join(sources) or 'none'}"
        raise NotFound(f"There is no source {name!r}", remedy=remedy, field="source")
    return sources[name]


def _tried(
    source: Source, item: DeliveryItem, max_payload_bytes: int, agents: Sequence[type[Agent]]
) -> Document:
    board = board_event(source.settings.kind, item)
    tasks: list[Any] = []
    chosen = source.choose(item)
    for rule in chosen.rules:
        request = rule.request(item, source.settings.tenant, max_payload_bytes)
        address = forge_address(source.settings.kind, rule.settings, item)
        task = request.model_dump(mode="json", exclude_defaults=True)
        reply_to = address.path if address else None
        refused = misfit(rule.settings, agents, request.payload)
        tasks.append({"rule": rule.rule_id, "task": task, "reply_to": reply_to, "refused": refused or None})
    reason = "; ".join(chosen.dropped) or chosen.missed
    return {
        "event": item.event,
        "delivery": item.delivery_id,
        "board": board and board[0],
        "tasks": tasks,
        "reason": reason or None,
    }


def _show_delivery(source: Source, delivery: Document) -> None:
    board = f", {delivery['board']} on the board" if delivery["board"] else ""
    name_of_event, fit = delivery["event"] or "(no name)", len(delivery["tasks"])
    click.echo(f"event {printable(name_of_event)}{board}: {fit} of {len(source.rules)} rules match")
    if delivery["reason"]:
        click.echo(f"  {printable(delivery['reason'])}")
    for row in delivery["tasks"]:
        task = row["task"]
        for name, value in (
            ("rule", row["rule"]),
            ("task", task["task_id"]),
            ("for", task.get("agent_id") or f"best for {task['capability']}"),
            ("thread", task.get("thread_id", "its own")),
            ("budget", task.get("budget_usd", "none")),
            ("reply", row["reply_to"] or "none"),
            *((name, json.dumps(value)) for name, value in task["payload"].items() if name != "text"),
            *([("REFUSED", row["refused"])] if row["refused"] else []),
        ):
            click.echo(f"  {name:<7} {printable(value)}")
        for line in str(task["payload"].get("text", "")).splitlines():
            click.echo(f"  | {printable(line)}")
