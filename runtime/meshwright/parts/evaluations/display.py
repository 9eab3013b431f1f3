"""Evaluations, as the client and the commands show them."""

from __future__ import annotations

from meshwright.component import Column, Resource, Verb
from meshwright.kit import Document, dollars, local_time


def _progress(evaluation: Document) -> str:
    failed = f", {evaluation['failed']} failed" if evaluation["failed"] else ""
    return f"{evaluation['done']} of {evaluation['items']}{failed}"


EVALUATIONS = Resource(
    "evaluations",
    "/v1/evaluations",
    (
        Column("evaluation", "evaluation_id", cut=1, from_end=True),
        Column("name", "name", cut=2),
        Column("status", "status"),
        Column("items", write=_progress, cut=4),
        Column("cost", "cost_usd", dollars),
        Column("by", "requested_by", cut=5),
        Column("when", "created_at", local_time, cut=3),
    ),
    help="List evaluations, show one with its figures, delete one.",
    empty="no evaluation was made; mesh evaluate FILE.jsonl --agent NAME makes one",
    verbs=(
        Verb(
            "delete",
            "Delete an evaluation with its texts; its tasks stay.",
            lambda evaluation: f"deleted: {evaluation['id']}",
            method="DELETE",
        ),
    ),
)
RESOURCES = (EVALUATIONS,)
