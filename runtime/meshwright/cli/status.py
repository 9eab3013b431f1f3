"""`mesh status`: what is open, what waits and for what, which models are left alone, what tenants use."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import click

from meshwright.cli.connect import Connection, talk
from meshwright.cli.options import Target, json_option, mesh_options
from meshwright.cli.output import Column, Document, document, echo_json, short, table

_ORDER = ("running", "waiting", "dispatched", "accepted")


def _ago(time: str | None) -> str:
    return "" if time is None else f"{_span(datetime.now(UTC) - datetime.fromisoformat(time))} ago"


def _ahead(time: str | None) -> str:
    if time is None:
        return ""
    left = datetime.fromisoformat(time) - datetime.now(UTC)
    return f"in {_span(left)}" if left.total_seconds() > 0 else "now"


def _span(span: timedelta) -> str:
    """A duration in its greatest unit: `40 s`, `12 min`, `3 h`, `2 days`."""
    seconds = max(0, round(span.total_seconds()))
    for unit, size in (("days", 172_800), ("h", 7_200), ("min", 120)):
        if seconds >= size:
            return f"{seconds // (size // 2)} {unit}"
    return f"{seconds} s"


def _left_alone(deployment: Document) -> str:
    status = deployment.get("status")
    return f"refused with {status}" if status else "cooling down"


def _open(tenant: Document) -> str:
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
    Column("next due", "next_due", _ahead),
    Column("reason", "reason", short),
)
_DEPLOYMENTS = (
    Column("deployment", "deployment"),
    Column("is", write=_left_alone),
    Column("since", "since", _ago),
    Column("next try", "until", _ahead),
    Column("reason", "reason", short),
)
_PROJECTIONS = (
    Column("list", "name"),
    Column("stands at", "seq"),
    Column("next try", "retry_at", _ahead),
    Column("error", "error", short),
)
_TENANTS = (Column("tenant", "tenant_id"), Column("open tasks", write=_open), Column("stored", write=_stored))


@click.command()
@json_option
@mesh_options
def status(target: Target, as_json: bool) -> None:
    """Show what is open, what waits, and which models are away."""

    async def ask(mesh: Connection) -> Document:
        return document(await mesh.client.status())

    found = talk(target, ask)
    echo_json(found) if as_json else click.echo(status_text(found))


def status_text(found: Document) -> str:
    """What `mesh status` shows."""
    counts = found["tasks"]
    known = [name for name in _ORDER if name in counts] + sorted({*counts} - {*_ORDER})
    by_status = ", ".join(f"{counts[name]:,} {name}" for name in known)
    total = sum(counts.values())
    parts = [f"open tasks: {total:,} ({by_status})" if total else "no open tasks"]
    parts += [table(_WAITS, found["waits"])] if found["waits"] else []
    parts += [table(_DEPLOYMENTS, found["deployments"])] if found["deployments"] else []
    parts += [table(_PROJECTIONS, found["projections"])] if found.get("projections") else []
    uses = found.get("tenants", ())
    has_limit = any(use.get(limit) is not None for use in uses for limit in ("max_open_tasks", "max_storage"))
    parts += [table(_TENANTS, uses)] if has_limit or len(uses) > 1 else []
    return "\n\n".join(parts)
