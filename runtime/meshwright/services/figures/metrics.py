"""Figures in the text format of Prometheus; those of models have the names of the GenAI conventions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from meshwright.component import Figure
from meshwright.services.figures.calls import CallKey, CallSums, Histogram
from meshwright.services.figures.records import AgentFigures, Figures

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ENDS = ("succeeded", "failed", "cancelled", "timed_out")
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_Labels = Mapping[str, object]


def _age(agent: AgentFigures, now: datetime) -> float:
    return 0.0 if agent.oldest is None else max(0.0, (now - agent.oldest).total_seconds())


_GAUGES: Sequence[tuple[str, str, Callable[[AgentFigures, datetime], float | None]]] = (
    ("slots", "Tasks that all workers may run at a time.", lambda agent, now: agent.slots),
    ("oldest_waiting_seconds", "Age of the task that waits longest for a slot.", _age),
    ("attempts_per_minute", "Attempts that ended a minute, in five minutes.", lambda agent, now: agent.rate),
    ("success_ratio", "Share of the last 20 attempts that succeeded.", lambda agent, now: agent.success),
    ("stuck_tasks", "Attempts over twice the p90 of their agent.", lambda agent, now: agent.stuck),
    (
        "cost_today_usd",
        "Known cost of calls of models since midnight UTC.",
        lambda agent, now: float(agent.cost_today_usd),
    ),
)
"""Gauges of each agent: the end of the name, the help, and how it is read."""
_PICO = 1e12


class MetricsText:
    """The metrics of a scrape, written one family after another."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(
        self, name: str, kind: str, text: str, samples: Iterable[tuple[_Labels, float | None]]
    ) -> None:
        """Add a gauge or counter; samples without a value are left out."""
        self._head(name, kind, text)
        self._lines += [
            f"{name}{_labels(labels)} {value!r}" for labels, value in samples if value is not None
        ]

    def histogram(self, name: str, text: str, samples: Iterable[tuple[_Labels, Histogram]]) -> None:
        """Add a histogram."""
        self._head(name, "histogram", text)
        for labels, values in samples:
            count = 0
            for bound, more in zip((*values.bounds, "+Inf"), values.counts, strict=True):
                count += more
                self._lines.append(f"{name}_bucket{_labels({**labels, 'le': bound})} {count}")
            self._lines.append(f"{name}_sum{_labels(labels)} {values.total!r}")
            self._lines.append(f"{name}_count{_labels(labels)} {count}")

    def text(self) -> str:
        """All of it."""
        return "\n".join([*self._lines, ""])

    def _head(self, name: str, kind: str, text: str) -> None:
        self._lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def metrics_text(
    found: Figures,
    counts: Mapping[str, Mapping[str, int]],
    calls: CallSums,
    providers: Mapping[str, str],
    others: Sequence[tuple[str, Figure]],
) -> str:
    """All metrics of a mesh. `counts` are events by agent and type, `providers` those of deployments.

    `others` are the figures of components, each with the component's name.
    """
    out = MetricsText()
    _write_agents(out, found)
    _write_counters(out, found, counts)
    _write_workers(out, found)
    _write_models(out, found, calls, providers)
    _write_usage(out, calls)
    for component, figure in others:
        samples = figure.read()
        values = samples if isinstance(samples, Mapping) else {"": samples}
        named = [({figure.label: label} if figure.label else {}, value) for label, value in values.items()]
        out.family(f"meshwright_{component}_{figure.name}", "gauge", figure.text, named)
    return out.text()


def _write_agents(out: MetricsText, found: Figures) -> None:
    agents, now = found.agents, found.at
    states = ("waiting", "running", "parked")
    out.family(
        "meshwright_tasks",
        "gauge",
        "Open tasks: they wait for a slot, run, or are parked.",
        [
            ({"agent": agent.agent_id, "state": state}, getattr(agent, state))
            for agent in agents
            for state in states
        ],
    )
    for name, text, read in _GAUGES:
        samples = [({"agent": agent.agent_id}, read(agent, now)) for agent in agents]
        out.family(f"meshwright_agent_{name}", "gauge", text, samples)
    shares = {"0.5": "p50_seconds", "0.9": "p90_seconds"}
    out.family(
        "meshwright_agent_attempt_seconds",
        "gauge",
        "Work of the last 50 attempts, without the time that they were parked.",
        [
            ({"agent": agent.agent_id, "share": share}, getattr(agent, name))
            for agent in agents
            for share, name in shares.items()
        ],
    )
    out.family(
        "meshwright_waits",
        "gauge",
        "Waits of parked tasks, by what they are for.",
        [({"agent": agent_id, "kind": kind}, count) for (agent_id, kind), count in _waits(found).items()],
    )


def _waits(found: Figures) -> Counter[tuple[str, str]]:
    waits = Counter[tuple[str, str]]()
    for parked in found.parked:
        waits[parked.agent_id or "", parked.kind] += parked.count
    return waits


def _write_counters(out: MetricsText, found: Figures, counts: Mapping[str, Mapping[str, int]]) -> None:
    agents = {agent_id: known for agent_id, known in counts.items() if agent_id}
    out.family(
        "meshwright_tasks_accepted_total",
        "counter",
        "Tasks that were accepted, by the agent that was chosen first.",
        [({"agent": agent_id}, known.get("task.accepted", 0)) for agent_id, known in agents.items()],
    )
    out.family(
        "meshwright_tasks_ended_total",
        "counter",
        "Tasks that have ended, by how.",
        [
            ({"agent": agent_id, "status": status}, known.get(f"task.{status}", 0))
            for agent_id, known in agents.items()
            for status in _ENDS
        ],
    )
    unnamed = counts.get("", {})
    out.family(
        "meshwright_dead_letters_total",
        "counter",
        "Tasks without a further attempt, and messages that no actor could take.",
        [({"kind": kind}, unnamed.get(f"{kind}.dead_lettered", 0)) for kind in ("task", "message")],
    )
    letters = found.dead_letters
    out.family(
        "meshwright_dead_letter_tasks",
        "gauge",
        "Tasks in the list that failed or timed out.",
        [({"status": "failed"}, letters.failed), ({"status": "timed_out"}, letters.timed_out)],
    )


def _write_workers(out: MetricsText, found: Figures) -> None:
    workers = Counter((worker.store, worker.lease) for worker in found.workers)
    out.family(
        "meshwright_workers",
        "gauge",
        "Processes of the mesh, by their store and whether they hold their lease.",
        [({"store": store, "lease": lease}, count) for (store, lease), count in workers.items()],
    )
    if (disk := found.disk) is not None:
        out.family(
            "meshwright_disk_free_bytes", "gauge", "Free on the disk of the data.", [({}, disk.free_bytes)]
        )
        out.family("meshwright_disk_size_bytes", "gauge", "Size of that disk.", [({}, disk.total_bytes)])
        out.family(
            "meshwright_store_bytes", "gauge", "Size of the database's files.", [({}, disk.store_bytes)]
        )


def _write_models(out: MetricsText, found: Figures, calls: CallSums, providers: Mapping[str, str]) -> None:
    out.family(
        "meshwright_deployment_up",
        "gauge",
        "Whether a deployment of a model gets calls (1) or is left alone (0).",
        [({"deployment": model.deployment}, int(model.well)) for model in found.models],
    )
    gauges = {
        "failed_ratio": ("Share of the last calls that failed.", "failed"),
        "retried_ratio": ("Share of the last calls that took more than one try.", "retried"),
        "fallback_ratio": ("Share of the last calls that came from another group.", "fallbacks"),
    }
    for name, (text, field) in gauges.items():
        samples = [
            ({"deployment": model.deployment}, getattr(model, field) / model.calls if model.calls else None)
            for model in found.models
        ]
        out.family(f"meshwright_deployment_{name}", "gauge", text, samples)
    out.family(
        "meshwright_model_cost_usd_total",
        "counter",
        "Known cost of calls of models since the process began.",
        [({"agent": agent_id}, pico / _PICO) for agent_id, pico in calls.cost_pico.items()],
    )

    def labels(key: CallKey) -> dict[str, object]:
        known: dict[str, object] = {
            "gen_ai_operation_name": "chat",
            "gen_ai_provider_name": providers.get(key.deployment) or "unknown",
            "gen_ai_request_model": key.group,
            "gen_ai_response_model": key.model,
        }
        return known | ({"error_type": key.error} if key.error else {})

    out.histogram(
        "gen_ai_client_inference_duration_seconds",
        "Duration of calls of models.",
        [(labels(key), values) for key, values in calls.durations.items()],
    )
    for kind in ("input", "output"):
        out.histogram(
            f"gen_ai_client_inference_operation_{kind}_tokens",
            f"Tokens of {kind} of answered calls of models.",
            [(labels(key), values) for (key, of_kind), values in calls.tokens.items() if of_kind == kind],
        )


def _write_usage(out: MetricsText, calls: CallSums) -> None:
    """Write what `/costs` sums up, by all of its keys but tags and tasks."""
    usage = [(key._asdict(), values) for key, values in calls.usage.items()]
    since = "since the process began, by tenant, agent, model and version of the prompt."
    out.family(
        "meshwright_usage_calls_total",
        "counter",
        f"Calls of models {since}",
        [(labels, values.calls) for labels, values in usage],
    )
    out.family(
        "meshwright_usage_tokens_total",
        "counter",
        f"Tokens of calls of models {since}",
        [
            ({**labels, "kind": kind}, getattr(values, f"{kind}_tokens"))
            for labels, values in usage
            for kind in ("input", "output")
        ],
    )
    out.family(
        "meshwright_usage_cost_usd_total",
        "counter",
        f"Known cost of calls of models {since}",
        [(labels, values.cost_pico / _PICO) for labels, values in usage],
    )


def _labels(labels: _Labels) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{str(value).translate(_ESCAPES)}"' for name, value in labels.items())
    return f"{{{','.join(pairs)}}}"
