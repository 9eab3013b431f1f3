"""How experiments are shown."""

from __future__ import annotations

from meshwright.component import Column, Resource, Verb
from meshwright.kit import Document, local_time


def _names(experiment: Document) -> str:
    return ", ".join(variant["name"] for variant in experiment["variants"])


EXPERIMENTS = Resource(
    "experiments",
    "/v1/experiments",
    (
        Column("experiment", "experiment_id", least=26),
        Column("name", "name", cut=2),
        Column("agent", "agent_id", cut=3),
        Column("status", "status"),
        Column("variants", write=_names, cut=1),
        Column("when", "created_at", local_time, cut=4),
    ),
    help="""Try variants of prompts, models and agents on live tasks.

    Tasks of one thread, or of one requester, get the same variant.
    """,
    lists="List experiments, the newest first.",
    empty="there is no experiment; mesh experiments create FILE.json makes one",
    verbs=(
        Verb("show", "Print an experiment as JSON.", method="GET"),
        Verb(
            "stop",
            "Stop an experiment for good: no further task gets a variant.",
            lambda answer: f"stopped: {answer['name']}",
            path="/stop",
        ),
    ),
)
RESOURCES = (EXPERIMENTS,)
