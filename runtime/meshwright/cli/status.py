"""`mesh status`: open tasks, waits, models that are left alone, and figures of agents, models and workers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from decimal import Decimal

import click

from meshwright.agents.event_types import AgentMissing
from meshwright.cli.connect import Connection, talk
from meshwright.cli.options import Target, json_option, mesh_options
from meshwright.cli.output import document, echo_json, table
from meshwright.core.display import Column, Document, age, ahead, dollars, short, short_id
from meshwright.core.errors import NotFound

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_GIGABYTE = 1e9
_MAX_STUCK = 5  # shown
_ORDER = ("running", "waiting", "dispatched", "accepted")


def _ago(time: str | None) -> str:
    return "" if time is None else f"{age(time)} ago"


def _left_alone(deployment: Document) -> str:
    status = deployment.get("status")
    return f"refused with {status}" if status else "cooling down"


def _open_tasks(tenant: Document) -> str:
    return f"{tenant['open_tasks']:,}{_of(tenant.get('max_open_tasks'), '{:,}'.format)}"


def _stored(tenant: Document) -> str:
    return f"{_megabytes(tenant['stored_bytes'])}{_of(tenant.get('max_storage'), _megabytes)}"


def _of(most: int | None, write: Callable[[int], str]) -> str:
    return "" if most is None else f" of {write(most)}"


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
    Column("next try", "until", ahead),
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
_LOSSES = (
    Column("database came back older", "at"),
    Column("last event that it had", "last_seq"),
    Column("events are gone up to", "lost_until_seq"),
)
_TENANTS = (
    Column("tenant", "tenant_id"),
    Column("open tasks", write=_open_tasks),
    Column("stored", write=_stored),
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
        return view

    view = talk(target, ask)
    echo_json(view) if as_json else click.echo(status_text(view))


def status_text(status: Document) -> str:
    """The text of `mesh status`."""
    counts = status["tasks"]
    names = [name for name in _ORDER if name in counts] + sorted({*counts} - {*_ORDER})
    by_status = ", ".join(f"{counts[name]:,} {name}" for name in names)
    total = sum(counts.values())
    state = status.get("state", "working")
    parts = [] if state == "working" else [f"{state}: nothing begins before mesh release"]
    parts += [f"open tasks: {total:,} ({by_status})" if total else "no open tasks"]
    parts += [table(_WAITS, status["waits"])] if status["waits"] else []
    missing = [AgentMissing.from_payload(agent).sentence for agent in status.get("missing") or ()]
    parts += ["\n".join(missing)] if missing else []
    parts += [table(_DEPLOYMENTS, status["deployments"])] if status["deployments"] else []
    parts += [table(_HELD, status["held"])] if status.get("held") else []
    parts += [table(_PROJECTIONS, status["projections"])] if status.get("projections") else []
    parts += [table(_LOSSES, status["losses"])] if status.get("losses") else []
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
    lines = [*_letters(figures["dead_letters"]), *_disk(figures["disk"]), *_workers(figures["workers"])]
    return [*parts, "\n".join(lines)] if lines else parts


def _agent_columns(now: datetime) -> tuple[Column, ...]:
    def age(time: str | None) -> str:
        return "" if time is None else _duration((now - datetime.fromisoformat(time)).total_seconds())

    return (
        Column("agent", "agent_id", cut=7, least=12),
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
    return "yes" if model["well"] else f"no, next try {ahead(model['until'])}"


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
        "tasks failed": letters["failed"],
        "timed out": letters["timed_out"],
        "messages not taken": letters["messages"] or 0,
    }
    text = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return [f"dead letters: {text}"] if text else []


def _disk(disk: Document | None) -> list[str]:
    if disk is None:
        return []
    free, total, store = (disk[f"{name}_bytes"] / _GIGABYTE for name in ("free", "total", "store"))
    return [f"disk: {free:,.1f} of {total:,.1f} GB free, the store takes {store:,.3f} GB"]


def _workers(workers: list[Document]) -> list[str]:
    slots = [sum(worker["agents"].values()) for worker in workers if worker["lease"] != "expired"]
    rest = f", and {len(workers) - len(slots):,} whose lease has expired" if len(slots) < len(workers) else ""
    return [f"workers: {len(slots):,} with {sum(slots):,} slots{rest}"] if workers else []
