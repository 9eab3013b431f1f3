"""The broker of a run: publishes tasks to a mesh, and judges what became of them.

The topics of a run lie below `mesh-prove/ID`, its replies below `mesh-prove-replies/ID`, and its client ids
begin with `mesh-prove.ID`. `mesh-prove/ID/run` is retained; the broker changes it by a will when the process
of the run has ended, so that the next run knows whose topics to clear.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import ValidationError

from meshwright.core.errors import InvalidInput
from meshwright.core.part import ProbeResult
from meshwright.core.settings import Settings
from meshwright.edges.broker.connection import BrokerAway
from meshwright.edges.broker.dialer import PORTS, BrokerDialer
from meshwright.edges.broker.probe import errors_naming, probe_broker
from meshwright.edges.broker.retained import RetainedMessages
from meshwright.edges.broker.submitter import Submission, Submitter
from meshwright.edges.broker.topics import Topics
from meshwright.edges.mqtt.settings import MqttSettings
from meshwright.edges.tls import BrokerTls
from meshwright.parts.proving.oracle import Evidence, task_records
from meshwright.parts.proving.proxy import Proxy
from meshwright.parts.proving.workload import AGENT_IDS, PlannedTask, is_published

_BASE = "mesh-prove"
_SERVICES = ("context-service", "event-logger", "orchestrator")  # that each mesh shows as agents
_BY_KEY = "submit with a key (docs/mqtt.md#guarantees)"


class BrokerReport(NamedTuple):
    """The findings of a run on its broker."""

    address: str
    """The address, without a user."""
    seen: dict[str, str]
    """The properties that the probe saw, by name."""
    notes: list[str]
    """A sentence on each thing that is special about it."""
    messages: int
    """Messages that it acknowledged."""
    outcomes_repeated: int
    """Outcomes that arrived again."""


class TrialBroker:
    """The broker of one run."""

    def __init__(self, settings: Settings, address: str, run_id: str, plan: Sequence[PlannedTask]) -> None:
        """Raises InvalidInput for an address that cannot be read, ConfigError for unusable certificates."""
        self.prefix = f"{_BASE}/{run_id}"
        try:
            MqttSettings(url=address)
        except ValidationError:
            raise InvalidInput(
                "The address of the broker cannot be read",
                remedy="Write it like mqtt://127.0.0.1:1883 or mqtts://host, with user and files in [mqtt]",
                field="broker",
            ) from None
        own = {"url": address, "prefix": self.prefix, "reply_prefix": f"{_BASE}-replies/{run_id}"}
        self._config = settings[MqttSettings].model_copy(update=own)
        tls = BrokerTls(settings, Path(), lambda event: None) if address.startswith("mqtts:") else None
        host = urlsplit(address)
        port = host.port or PORTS[host.scheme]
        self.proxy = Proxy(host.hostname or "", port, None if tls is None else tls.context)
        """The proxy between the mesh and the broker."""
        self._dialer = BrokerDialer(self._config, tls, settings.max_payload_bytes)
        self._topics = Topics(self.prefix, self._config.reply_prefix)
        self._retained = RetainedMessages(self._dialer, self._topics.client_id("look"))
        self._tasks = [_submission(item) for item in plan if is_published(item)]
        self.client = Submitter(self._dialer, self._topics, f"{self.prefix}/run", self._tasks)
        """The client that publishes the tasks."""
        self._probe: ProbeResult | None = None
        self.report: BrokerReport | None = None
        """The findings; None before `judge`."""

    @asynccontextmanager
    async def opened(
        self, killed: Sequence[str], *, beside: bool, report: Callable[[str], None]
    ) -> AsyncIterator[Self]:
        """Clear what `killed` and other dead runs left, try the broker, and clear all at the end.

        Raises InvalidInput for topics of others, unless the run may go on `beside` them, BrokerAway and
        TrialFailed where nothing can be proved.
        """
        with errors_naming(self._dialer):
            for prefix in await self._dead_prefixes(killed, beside=beside):
                await self._clear(prefix)
                report(f"cleared the topics below {prefix}, which a killed run left")
            replies = self._topics.replies_to(self._topics.submit)
            await self._retained.read(f"{replies}#", f"{replies}last")  # it may grant this, and send nothing
            client_id = self._topics.client_id("edge")
        self._probe = await probe_broker(self._dialer, client_id, self._topics)
        try:
            async with self.proxy:
                yield self
        finally:
            try:
                await self._clear(self.prefix)
            except BrokerAway as error:
                report(f"the topics below {self.prefix} stay for the next run to clear: {error}")

    async def _dead_prefixes(self, killed: Sequence[str], *, beside: bool) -> list[str]:
        runs: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        for topic, payload in (await self._retained.read(f"{_BASE}/#", self._topics.submit)).items():
            run_id, _, name = topic.removeprefix(f"{_BASE}/").partition("/")
            runs[run_id][name] = payload
        foreign = [run_id for run_id, topics in runs.items() if not ("run" in topics or run_id in killed)]
        if foreign and not beside:
            raise InvalidInput(
                f"The broker has retained topics below {_BASE}/{foreign[0]} that are of no run of mesh prove",
                remedy="Name another broker, or prove it beside them, which touches none: --beside",
                field="broker",
            )
        ended = [run_id for run_id, topics in runs.items() if topics.get("run") == b"ended"]
        return [f"{_BASE}/{run_id}" for run_id in dict.fromkeys([*killed, *ended])]

    async def _clear(self, prefix: str) -> None:
        """End the sessions of a run and clear its topics. Raises BrokerAway."""
        topics = Topics(prefix, self._config.reply_prefix)
        for name in ("edge", "edge-check", "client"):  # whose wills would come later
            await self._retained.end_session(topics.client_id(name))
        names = {topics.status, topics.inbox("default"), f"{prefix}/run"}
        names |= {topics.agent(agent_id) for agent_id in (*AGENT_IDS, *_SERVICES)}
        names |= (
            await self._retained.read(f"{prefix}/#", topics.submit)
        ).keys()  # not every broker sends these
        await self._retained.clear(sorted(names))

    def worker_table(self) -> dict[str, Any]:
        """Return the table [mqtt] of the mesh behind the proxy."""
        fields = {"username", "prefix", "reply_prefix"}
        password = self._config.password.get_secret_value() if self._config.password else None
        table = {"url": f"mqtt://127.0.0.1:{self.proxy.port}", "password": password}
        return table | self._config.model_dump(include=fields)

    def expected(self) -> int:
        """The least number of tasks that come of what is allowed."""
        allowed = [task for task in self._tasks if task.number < self.client.allowed]
        has_ended = self.client.has_given_up
        return sum(
            task.bounds[0] if has_ended or task.is_sent else 1 if task.key else task.times for task in allowed
        )

    def judge(self, evidence: Evidence) -> list[str]:
        """Compare the tasks of the mesh with what was published: a sentence for each broken promise."""
        assert self._probe is not None
        client, seen = self.client, dict(self._probe.seen)
        broken, lost, merged = [*client.refusals], 0, 0
        sessions_lost = len(evidence.select_events("edge.session_lost")) + client.sessions_lost
        dropped = [event.payload for event in evidence.select_events("edge.dropped")]
        refusals = [payload["reason"] for payload in dropped if payload.get("topic")]
        renumbers = seen["resumes"] == "yes" and seen["keeps packet id"] == "no"
        may_merge = renumbers or "no" in (seen["sets dup"], seen["has own packet ids"])
        ids: defaultdict[str, list[str]] = defaultdict(list)
        for task_id, record in task_records(evidence).items():
            if record.task is not None:
                ids[str(record.task.payload.get("text"))].append(task_id)
        for task in self._tasks:
            own, (least, most) = ids[task.text], task.bounds
            sent = f"message {task.text!r}, acknowledged {task.acknowledged} times"
            sent += f" with key {task.key!r}" if task.key else ""
            missing = max(0, least - len(own))
            if missing and sessions_lost:
                lost += missing
            elif missing and own and not task.key and may_merge:
                merged += missing
            elif missing:
                broken.append(f"lost: {sent}, became {len(own)} tasks")
            if len(own) > most:
                broken.append(f"{sent}, became {len(own)} tasks")
            if not (sessions_lost or client.problem or refusals):
                broken += [f"no outcome of {one} was published" for one in own if one not in client.outcomes]
        how = "Publishing ended" if client.has_given_up else "It was away at the end,"
        notes = {
            f"It redelivers under new packet ids: {_BY_KEY}": renumbers,
            "It has no shared subscriptions: mesh up --store dapr needs --bus redis (docs/dapr.md)": (
                seen["shared subscriptions"] == "no"
            ),
            f"It lost a session {sessions_lost} times, and {lost} messages that it had acknowledged": (
                sessions_lost
            ),
            f"{merged} messages without a key were taken for equal ones: {_BY_KEY}": merged,
            f"{how} after {client.acknowledged:,} messages: {client.problem}": client.problem,
            f"It did not take all that the mesh published: {', '.join({*refusals})}": refusals,
        }
        self.report = BrokerReport(
            *(self._probe.system, seen, [*self._probe.limits, *(note for note in notes if notes[note])]),
            *(client.acknowledged, client.repeated),
        )
        return broken


def _submission(item: PlannedTask) -> Submission:
    """Of each five that are published two have a key, of which one comes twice, as one without a key does."""
    kind = item.number % 10
    may_repeat = not item.key.startswith("charge")  # its tool must have its effect once for each text
    times = 2 if kind == 0 or (kind == 4 and may_repeat) else 1
    return Submission(item.number, item.text, item.request(), item.key if kind in (0, 6) else None, times)
