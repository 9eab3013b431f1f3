"""The operations on figures, also in the text format of Prometheus.

Figures of models have the names of the GenAI conventions there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from meshwright.component import Caller, Component, Figure, Mesh, Model
from meshwright.kit import Identifier, Role, Rule, operation, visible_tenant
from meshwright.models.overview import Deployments
from meshwright.money.costs import parse_since
from meshwright.parts.figures.reader import FiguresReader
from meshwright.parts.figures.records import AgentFigures, Figures, Flows, Scale, Story, Trends
from meshwright.parts.figures.story import read_story
from meshwright.parts.figures.sums import CallKey, CallSums, Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SEE = Rule("sees figures", (Role.VIEWER,))


class FiguresOperations:
    """The operations on figures. Each raises StoreFailed."""

    def __init__(self, mesh: Mesh, reader: FiguresReader) -> None:
        self._mesh = mesh
        self._reader = reader

    @operation(_SEE, "GET /figures", "Show figures", name="show_figures")
    async def show(self, caller: Caller) -> Figures:
        """Show agents, workers, models, what is parked, stuck or dead, and the disk, as they are now.

        The holder of a key sees the tasks of the key's tenant, the administrator all of it.
        """
        return await self._reader.figures(visible_tenant(caller))

    @operation(
        Rule("reads metrics", (Role.VIEWER,), all_tenants=True),
        "GET /metrics",
        "Scrape metrics",
        name="scrape",
        response="The text format of Prometheus.",
        text=CONTENT_TYPE,
    )
    async def metrics(self, caller: Caller) -> str:
        """Give the figures of the whole mesh in the text format of Prometheus.

        A scraper elsewhere sends a key: `mesh keys create --name prometheus --tenant '*' --role viewer`.
        """
        figures, counts = await self._reader.with_counts(None)
        parts = [part for part in self._mesh.components if isinstance(part, Component)]
        others = [(part.name, figure) for part in parts for figure in part.figures()]
        return metrics_text(figures, counts, self._reader.calls, self._providers(), others)

    @operation(_SEE, "GET /figures/trends", "Show figures of the last hours", name="show_trends")
    async def trends(self, caller: Caller, hours: Annotated[int, Field(ge=1, le=168)] = 24) -> Trends:
        """Count the tasks of agents that ended, and the calls of deployments, hour by hour.

        The holder of a key sees the tasks of the key's tenant, the administrator all of it, and deployments.
        """
        return await self._reader.trends(hours, visible_tenant(caller))

    @operation(_SEE, "GET /figures/flows", "Show the flow of the last minutes", name="show_flows")
    async def flows(self, caller: Caller, minutes: Annotated[int, Field(ge=1, le=60)] = 10) -> Flows:
        """Count the tasks that were given from agent to agent, and the calls of models, in the last minutes.

        The holder of a key sees the tasks of the key's tenant, the administrator all of it.
        """
        return await self._reader.flows(minutes, visible_tenant(caller))

    @operation(
        _SEE,
        "GET /story",
        "Tell what happened since a time",
        name="show_story",
        errors={422: "`since` is no time."},
    )
    async def story(self, caller: Caller, since: str = "12h") -> Story:
        """Tell what went away and came back, what waited, what failed by cause, who answered, what it cost.

        `since` is a time ago such as `12h`, or an RFC 3339 time. At most 1,000 events of a type and 10,000
        failed tasks are read, the newest; `cut` names those of which there was more.
        """
        now = self._mesh.runtime.clock.now()
        return await read_story(self._mesh.log, visible_tenant(caller), parse_since(since, now), now)

    @operation(
        _SEE,
        "GET /scale/{app}",
        "Show an agent's work, for autoscalers",
        name="show_scale",
        errors={404: "There is no such agent."},
    )
    async def scale(self, caller: Caller, app: Identifier) -> Scale:
        """Count the tasks of an agent, or of all (`mesh`), that wait for a slot or run, for an autoscaler."""
        return await self._reader.scale(app, visible_tenant(caller))

    def _providers(self) -> dict[str, str]:
        return self._mesh.get(Deployments).providers() or {"": self._mesh.get(Model).name}


# The text format of Prometheus

_SINCE = "since the process began, by tenant, agent, model and version of the prompt."
_METRICS = {
    "tasks": ("gauge", "Open tasks: they wait for a slot, run, or are parked."),
    "agent_slots": ("gauge", "Tasks that all workers may run at a time."),
    "agent_oldest_waiting_seconds": ("gauge", "Age of the task that waits longest for a slot."),
    "agent_attempts_per_minute": ("gauge", "Attempts that ended a minute, in five minutes."),
    "agent_success_ratio": ("gauge", "Share of the last 20 attempts that succeeded."),
    "agent_stuck_tasks": ("gauge", "Attempts over twice the p90 of their agent."),
    "agent_cost_today_usd": ("gauge", "Known cost of calls of models since midnight UTC."),
    "agent_attempt_seconds": (
        "gauge",
        "Work of the last 50 attempts, without the time that they were parked.",
    ),
    "waits": ("gauge", "Waits of parked tasks, by what they are for."),
    "questions_unreached": ("gauge", "Open questions that were shown to nobody who may answer them."),
    "questions_unreached_seconds": ("gauge", "Age of the oldest of these questions."),
    "tasks_accepted_total": ("counter", "Tasks that were accepted, by the agent that was chosen first."),
    "tasks_ended_total": ("counter", "Tasks that have ended, by how."),
    "dead_letters_total": (
        "counter",
        "Tasks without a further attempt, and messages that no actor could take.",
    ),
    "dead_letter_tasks": ("gauge", "Tasks in the list that failed or timed out."),
    "workers": ("gauge", "Processes of the mesh, by their store and whether they hold their lease."),
    "disk_free_bytes": ("gauge", "Free on the disk of the data."),
    "disk_size_bytes": ("gauge", "Size of that disk."),
    "store_bytes": ("gauge", "Size of the database's files."),
    "deployment_up": ("gauge", "Whether a deployment of a model gets calls (1) or is left alone (0)."),
    "deployment_failed_ratio": ("gauge", "Share of the last calls that failed."),
    "deployment_retried_ratio": ("gauge", "Share of the last calls that took more than one try."),
    "deployment_fallback_ratio": ("gauge", "Share of the last calls that came from another group."),
    "deployment_errors_total": ("counter", "Attempts that failed since the process began, by their error."),
    "model_cost_usd_total": ("counter", "Known cost of calls of models since the process began."),
    "gen_ai_client_inference_duration_seconds": ("histogram", "Duration of calls of models."),
    "gen_ai_client_inference_operation_input_tokens": (
        "histogram",
        "Tokens of input of answered calls of models.",
    ),
    "gen_ai_client_inference_operation_output_tokens": (
        "histogram",
        "Tokens of output of answered calls of models.",
    ),
    "usage_calls_total": ("counter", f"Calls of models {_SINCE}"),
    "usage_tokens_total": ("counter", f"Tokens of calls of models {_SINCE}"),
    "usage_cost_usd_total": ("counter", f"Known cost of calls of models {_SINCE}"),
}
"""The metrics in their order: the kind and a sentence for each name, which begins with `meshwright_` too."""
_ENDS = ("succeeded", "failed", "cancelled", "timed_out")
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_PICO = 1e12
_Labels = Mapping[str, object]
_Samples = Iterable[tuple[_Labels, Any]]
"""Numbers, or histograms, by their labels. None where there is no number."""


class MetricsText:
    """The metrics of a scrape, written one family after another."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, text: str, samples: _Samples) -> None:
        """Add a family; samples without a value are left out."""
        self._lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        for labels, value in samples:
            if isinstance(value, Histogram):
                self._histogram(name, labels, value)
            elif value is not None:
                self._lines.append(f"{name}{_label_text(labels)} {value!r}")

    def _histogram(self, name: str, labels: _Labels, values: Histogram) -> None:
        count = 0
        for bound, more in zip((*values.bounds, "+Inf"), values.counts, strict=True):
            count += more
            self._lines.append(f"{name}_bucket{_label_text({**labels, 'le': bound})} {count}")
        self._lines.append(f"{name}_sum{_label_text(labels)} {values.total!r}")
        self._lines.append(f"{name}_count{_label_text(labels)} {count}")

    def text(self) -> str:
        """All of it."""
        return "\n".join([*self._lines, ""])


def metrics_text(
    figures: Figures,
    counts: Mapping[str, Mapping[str, int]],
    calls: CallSums,
    providers: Mapping[str, str],
    others: Sequence[tuple[str, Figure]],
) -> str:
    """All metrics of a mesh. `counts` are events by agent and type, `providers` those of deployments.

    `others` are the figures of components, each with the component's name.
    """
    out = MetricsText()
    samples = {
        **_agent_samples(figures),
        **_task_samples(figures, counts),
        **_worker_samples(figures),
        **_model_samples(figures),
        **_call_samples(calls, providers),
    }
    for name, (kind, text) in _METRICS.items():
        if name in samples:  # a mesh without a disk has no figures of it
            full_name = name if name.startswith("gen_ai_") else f"meshwright_{name}"
            out.family(full_name, kind, text, samples[name])
    for component, figure in others:
        sample = figure.read()
        values = sample if isinstance(sample, Mapping) else {"": sample}
        labelled = [
            ({figure.label: value} if figure.label else {}, number) for value, number in values.items()
        ]
        out.family(f"meshwright_{component}_{figure.name}", "gauge", figure.text, labelled)
    return out.text()


def _agent_samples(figures: Figures) -> dict[str, _Samples]:
    def per_agent(figure_of: Callable[[AgentFigures], float | None]) -> _Samples:
        return [({"agent": agent.agent_id}, figure_of(agent)) for agent in figures.agents]

    def by(label: str, fields: Mapping[str, str]) -> _Samples:
        return [
            ({"agent": agent.agent_id, label: value}, getattr(agent, field))
            for agent in figures.agents
            for value, field in fields.items()
        ]

    waits, unreached, ages = Counter[tuple[str, str]](), Counter[str](), dict[str, float]()
    for parked in figures.parked:
        agent_id = parked.agent_id or ""
        waits[agent_id, parked.kind] += parked.count
        if (since := parked.unreached_since) is not None:
            unreached[agent_id] += parked.unreached
            ages[agent_id] = max(ages.get(agent_id, 0.0), (figures.at - since).total_seconds())
    return {
        "tasks": by("state", {"waiting": "waiting", "running": "running", "parked": "parked"}),
        "agent_slots": per_agent(lambda agent: agent.slots),
        "agent_oldest_waiting_seconds": per_agent(lambda agent: _age(agent, figures.at)),
        "agent_attempts_per_minute": per_agent(lambda agent: agent.rate),
        "agent_success_ratio": per_agent(lambda agent: agent.success),
        "agent_stuck_tasks": per_agent(lambda agent: agent.stuck),
        "agent_cost_today_usd": per_agent(_cost_today),
        "agent_attempt_seconds": by("share", {"0.5": "p50_seconds", "0.9": "p90_seconds"}),
        "waits": [({"agent": agent_id, "kind": kind}, count) for (agent_id, kind), count in waits.items()],
        "questions_unreached": [({"agent": agent_id}, count) for agent_id, count in unreached.items()],
        "questions_unreached_seconds": [({"agent": agent_id}, age) for agent_id, age in ages.items()],
    }


def _cost_today(agent: AgentFigures) -> float | None:
    return None if agent.cost_today_usd is None else float(agent.cost_today_usd)


def _age(agent: AgentFigures, now: datetime) -> float:
    return 0.0 if agent.oldest is None else max(0.0, (now - agent.oldest).total_seconds())


def _task_samples(figures: Figures, counts: Mapping[str, Mapping[str, int]]) -> dict[str, _Samples]:
    agents = {agent_id: types for agent_id, types in counts.items() if agent_id}
    letters, unnamed = figures.dead_letters, counts.get("", {})
    return {
        "tasks_accepted_total": [
            ({"agent": agent_id}, types.get("task.accepted", 0)) for agent_id, types in agents.items()
        ],
        "tasks_ended_total": [
            ({"agent": agent_id, "status": status}, types.get(f"task.{status}", 0))
            for agent_id, types in agents.items()
            for status in _ENDS
        ],
        "dead_letters_total": [
            ({"kind": kind}, unnamed.get(f"{kind}.dead_lettered", 0)) for kind in ("task", "message")
        ],
        "dead_letter_tasks": [
            ({"status": status}, getattr(letters, status)) for status in ("failed", "timed_out")
        ],
    }


def _worker_samples(figures: Figures) -> dict[str, _Samples]:
    workers = Counter((worker.store, worker.lease) for worker in figures.workers)
    samples: dict[str, _Samples] = {
        "workers": [({"store": store, "lease": lease}, count) for (store, lease), count in workers.items()]
    }
    if (disk := figures.disk) is None:
        return samples
    sizes = {"disk_free": disk.free_bytes, "disk_size": disk.total_bytes, "store": disk.store_bytes}
    return samples | {f"{name}_bytes": [({}, size)] for name, size in sizes.items()}


def _model_samples(figures: Figures) -> dict[str, _Samples]:
    models = figures.models
    shares = {"failed": "failed", "retried": "retried", "fallback": "fallbacks"}
    return {
        "deployment_up": [({"deployment": model.deployment}, int(model.well)) for model in models],
        **{
            f"deployment_{name}_ratio": [
                ({"deployment": model.deployment}, getattr(model, field) / model.calls)
                for model in models
                if model.calls
            ]
            for name, field in shares.items()
        },
    }


def _call_samples(calls: CallSums, providers: Mapping[str, str]) -> dict[str, _Samples]:
    """The calls since the process began. `usage_` is summed as `/costs` is, but for tags and tasks."""

    def labels(key: CallKey) -> _Labels:
        fields = {
            "gen_ai_operation_name": "chat",
            "gen_ai_provider_name": providers.get(key.deployment) or "unknown",
            "gen_ai_request_model": key.group,
            "gen_ai_response_model": key.model,
        }
        return fields | ({"error_type": key.error} if key.error else {})

    usage = [(key._asdict(), sums) for key, sums in calls.usage.items()]
    return {
        "deployment_errors_total": [(key._asdict(), count) for key, count in calls.errors.items()],
        "model_cost_usd_total": [({"agent": name}, pico / _PICO) for name, pico in calls.cost_pico.items()],
        "gen_ai_client_inference_duration_seconds": [
            (labels(key), values) for key, values in calls.durations.items()
        ],
        **{
            f"gen_ai_client_inference_operation_{kind}_tokens": [
                (labels(key), values) for (key, of_kind), values in calls.tokens.items() if of_kind == kind
            ]
            for kind in ("input", "output")
        },
        "usage_calls_total": [(key, sums.calls) for key, sums in usage],
        "usage_tokens_total": [
            ({**key, "kind": kind}, getattr(sums, f"{kind}_tokens"))
            for key, sums in usage
            for kind in ("input", "output")
        ],
        "usage_cost_usd_total": [(key, sums.cost_pico / _PICO) for key, sums in usage],
    }


def _label_text(labels: _Labels) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{str(value).translate(_ESCAPES)}"' for name, value in labels.items())
    return f"{{{','.join(pairs)}}}"
