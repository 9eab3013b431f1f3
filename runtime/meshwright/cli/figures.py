"""The tables of figures in `mesh status`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

from meshwright.cli.output import table
from meshwright.core.display import Column, Document, ahead, dollars, short, short_id

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_GIGABYTE = 1e9
_MAX_STUCK = 5  # shown


def figures_text(found: Document) -> list[str]:
    """The tables of agents, models and stuck attempts, and a line for dead letters, disk and workers."""
    now = datetime.fromisoformat(found["at"])
    agents = [agent for agent in found["agents"] if _has_figures(agent)]
    models = [model for model in found["models"] if model["calls"] or not model["well"]]
    stuck = found["stuck"][:_MAX_STUCK]
    parts = [table(_agent_columns(now), agents)] if agents else []
    parts += [table(_MODELS, models)] if models else []
    parts += [table(_STUCK, stuck)] if stuck else []
    lines = [*_letters(found["dead_letters"]), *_disk(found["disk"]), *_workers(found["workers"])]
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
    known = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return [f"dead letters: {known}"] if known else []


def _disk(disk: Document | None) -> list[str]:
    if disk is None:
        return []
    free, total, store = (disk[f"{name}_bytes"] / _GIGABYTE for name in ("free", "total", "store"))
    return [f"disk: {free:,.1f} of {total:,.1f} GB free, the store takes {store:,.3f} GB"]


def _workers(workers: list[Document]) -> list[str]:
    slots = [sum(worker["agents"].values()) for worker in workers if worker["lease"] != "expired"]
    gone = f", and {len(workers) - len(slots):,} whose lease has expired" if len(slots) < len(workers) else ""
    return [f"workers: {len(slots):,} with {sum(slots):,} slots{gone}"] if workers else []
