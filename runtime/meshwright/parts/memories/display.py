"""Memories, as the client and the commands show them."""

from __future__ import annotations

from meshwright.component import Column, Resource, Verb
from meshwright.kit import Document, age

TRUST = ("strangers", "a model", "code", "a person")
"""The least trusted source of a memory, by its number."""


def trusted(memory: Document) -> str:
    """The least trusted source of a memory."""
    return TRUST[memory["trust"]]


def owner(memory: Document) -> str:
    """The task, agent or project that recalls a memory, or everybody."""
    return "everybody" if memory["scope"] == "global" else f"{memory['scope']} {memory['scope_id']}"


def _promoted(memory: Document) -> str:
    return f"promoted: {memory['id']} is recalled now, by {owner(memory)}"


def _undone(memory: Document) -> str:
    return f"undone: {memory['id']} is {memory['status']}"


MEMORIES = Resource(
    "memories",
    "/memories",
    (
        Column("memory", "memory_id"),
        Column("status", "status"),
        Column("kind", "kind"),
        Column("age", "created_at", age),
        Column("recalled by", write=owner, cut=2),
        Column("trust", write=trusted),
        Column("subject", "subject", cut=3),
        Column("text", "text", cut=1),
    ),
    help="""List what agents remember, edit, promote and forget it.

    A memory in quarantine comes from text of strangers, or contradicts one of more trust: no agent recalls it
    before a person promotes it. The inbox lists it too.
    """,
    command="memory",
    empty="there are no such memories",
    verbs=(
        Verb("promote", "Have a quarantined or superseded memory recalled.", _promoted, path="/promote"),
        Verb("undo", "Take the last change of a memory back.", _undone, path="/undo"),
    ),
)
RESOURCES = (MEMORIES,)
