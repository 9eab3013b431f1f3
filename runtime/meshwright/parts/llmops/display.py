"""Registered prompts, as the client and the commands show them."""

from __future__ import annotations

from meshwright.component import Column, Resource, Verb
from meshwright.kit import Document, local_time


def render_labels(prompt: Document) -> str:
    """The labels of a prompt with their versions: `production v2, canary v3`."""
    return ", ".join(f"{label} v{version}" for label, version in prompt["labels"].items())


def render_number(prompt: Document) -> str:
    """The number of a version: `v3`."""
    return f"v{prompt['version']}"


PROMPTS = Resource(
    "prompts",
    "/v1/prompts",
    (
        Column("prompt", "name"),
        Column("newest", write=render_number),
        Column("labels", write=render_labels, cut=2),
        Column("author", "author"),
        Column("when", "created_at", local_time),
        Column("message", "message", cut=1),
    ),
    help="""Register versions of prompts, and say by labels which one is live.

    Agents use the version with the label `production`, else their prompt file. A rollback is the label moved
    back.
    """,
    lists="List registered prompts with their newest version and their labels.",
    empty="no prompt is registered; mesh registry add FILE.prompt registers one",
    command="registry",
    id="NAME",
    verbs=(
        Verb(
            "delete",
            "Delete a prompt with its labels; its versions stay readable by number.",
            lambda prompt: f"deleted: {prompt['id']}",
            method="DELETE",
        ),
    ),
)
RESOURCES = (PROMPTS,)
