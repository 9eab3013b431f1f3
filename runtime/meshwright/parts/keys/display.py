"""Keys, as the client and the commands show them."""

from __future__ import annotations

from datetime import UTC, datetime

from meshwright.component import Column, Resource
from meshwright.kit import Document, local_time, or_never


def _key_budget(key: Document) -> str:
    return f"${key['budget']['limit_usd']}/{key['budget']['window']}" if key["budget"] else ""


def _since(key: Document) -> str:
    if key["revoked_at"]:
        return f"revoked {local_time(key['revoked_at'])}"
    if key["expires_at"]:
        is_over = datetime.fromisoformat(key["expires_at"]) <= datetime.now(UTC)
        return f"{'expired' if is_over else 'expires'} {local_time(key['expires_at'])}"
    return local_time(key["created_at"])


KEYS = Resource(
    "keys",
    "/keys",
    (
        Column("key", "key_id", cut=3, from_end=True),
        Column("name", "agent_id", cut=4),
        Column("tenant", "tenant_id", cut=2),
        Column("roles", "roles", ",".join, cut=1),
        Column("budget", write=_key_budget, cut=1),
        Column("last used", "used_at", or_never),
        Column("since", write=_since),
    ),
    help="""Manage virtual API keys.

    Until you create a key, callers on the mesh's own machine need none. Creating the first one makes keys
    mandatory for every request that runs or shows tasks, models, events, costs or budgets. `mesh keys open`
    undoes that. Commands on this machine go on working: they use the admin token of the data folder.
    """,
    lists="List the keys that were made: whose, since when; never the keys themselves.",
    empty="no keys; mesh keys create --name ID makes one",
)
RESOURCES = (KEYS,)
