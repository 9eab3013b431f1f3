"""Experiments, as the client, the commands and the events show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshwright.core.display import Column, Document, EventWords, Resource, Verb, local_time, short

CREATED, STARTED, STOPPED, SEEN = (f"experiment.{what}" for what in ("created", "started", "stopped", "seen"))
FACTS: Mapping[str, str] = {
    CREATED: "experiment_id name agent_id variants unit metric",
    STARTED: "experiment_id name agent_id runs_over",
    STOPPED: "experiment_id name agent_id action reason stopped_by variant metric",
    SEEN: "experiment_id name agent_id seen_by",
}
PAYLOADS: Mapping[str, str] = {
    "experiment.created": "experiment_id, name, agent_id, variants, unit, metric",
    "experiment.started": "experiment_id, name, agent_id, runs_over",
    "experiment.stopped": "experiment_id, name, agent_id, stopped_by, action, variant, metric, reason",
    "experiment.seen": "experiment_id, name, agent_id, seen_by",
}


def _names(experiment: Document) -> str:
    return ", ".join(variant["name"] for variant in experiment["variants"])


def _created(said: Document, event: Document) -> Sequence[object]:
    return (f"{said['name']} tries {', '.join(said['variants'])} on {said['agent_id']}",)


def _stopped(said: Document, event: Document) -> Sequence[object]:
    how = "is rolled back" if said.get("action") == "rollback" else "is stopped"
    by = f" by {said['stopped_by']}" if said.get("stopped_by") else ""
    return (f"{said['name']} on {said['agent_id']} {how}{by}", short(said.get("reason") or ""))


WORDS: Mapping[str, EventWords] = {
    CREATED: EventWords("experiment", _created),
    STARTED: EventWords("experiment", lambda said, _: (f"{said['name']} runs over {said['runs_over']}",)),
    STOPPED: EventWords("experiment", _stopped),
    SEEN: EventWords("experiment", lambda said, _: (f"{said['name']} was seen by {said['seen_by']}",)),
}
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
