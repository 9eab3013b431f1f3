"""The agents of a mesh: how each is doing, and which is best for a task.

All in memory: agents register when they start, and the success of the past is read back from the event
log. Scores are kept until something they rest on changes, so that asking for them in a turn costs little.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from meshwright.core.capability import LLM_SERVICE, AgentInfo, AgentStatus, Registration
from meshwright.core.clock import Clock, SystemClock
from meshwright.core.errors import InvalidInput, NoAgentAvailable, NotFound, nearest
from meshwright.core.messages import ScoreCard, Task
from meshwright.core.schema import described, fault_text, faults
from meshwright.mesh.orchestration.scoring import OutcomeHistory, score_card

_DEGRADED_AFTER_SECONDS = 60.0
_OFFLINE_AFTER_SECONDS = 120.0
_MAX_OTHERS = 10
_A_CAPABILITY = "it is a capability: name it as `capability`, and any agent that has it may do the work"
_WHERE_TO_LOOK = "GET /agents or `mesh agents` shows who is there and how each is doing"


@dataclass(slots=True)
class _Member:
    """A registered agent and its state; `problem` is why it is unhealthy, or None."""

    registration: Registration
    last_seen: datetime
    status: AgentStatus = "online"
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class StatusChange:
    """An agent went from one state to another; `event_type` and `payload` are for the bus."""

    agent_id: str
    event_type: str
    payload: dict[str, Any]


class Registry:
    """The agents of a mesh. Not thread-safe: it belongs to the event loop."""

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        degraded_after_seconds: float = _DEGRADED_AFTER_SECONDS,
        offline_after_seconds: float = _OFFLINE_AFTER_SECONDS,
    ) -> None:
        self._clock = clock or SystemClock()
        self._degraded_after_seconds = degraded_after_seconds
        self._offline_after_seconds = offline_after_seconds
        self._members: dict[str, _Member] = {}
        self._histories: defaultdict[tuple[str, str], OutcomeHistory] = defaultdict(OutcomeHistory)
        self._ranked: dict[str, tuple[ScoreCard, ...]] = {}

    def register(self, registration: Registration) -> None:
        """Make an agent known, seen now; a second registration replaces the first."""
        self._members[registration.agent_id] = _Member(registration, self._clock.now())
        self._ranked.clear()

    def renew(self, registration: Registration) -> None:
        """Replace how an agent is described, and nothing that is known of it. Raises NotFound."""
        member = self._member(registration.agent_id)
        if member.registration != registration:
            member.registration = registration
            self._ranked.clear()

    def heartbeat(self, agent_id: str, at: datetime | None = None) -> None:
        """Note that an agent was seen, now or at that time. Raises NotFound where it is not registered."""
        member = self._member(agent_id)
        member.last_seen = max(member.last_seen, at or self._clock.now())

    def refresh(self, now: datetime | None = None) -> list[StatusChange]:
        """Judge every agent by its silence, and return what changed, once per change."""
        now = now or self._clock.now()
        changes = [change for member in self._members.values() if (change := self._judge(member, now))]
        if changes:
            self._ranked.clear()
        return changes

    def set_problem(self, agent_id: str, problem: str | None) -> StatusChange | None:
        """Note why an agent's dependencies fail, or None that they answer; returns the change, if any."""
        member = self._member(agent_id)
        was_healthy = member.problem is None
        member.problem = problem
        if was_healthy == (problem is None):
            return None
        self._ranked.clear()
        event_type = "agent.recovered" if problem is None else "agent.unhealthy"
        return StatusChange(agent_id, event_type, {"agent_id": agent_id, "problem": problem})

    def record(self, agent_id: str, capability: str, success: bool) -> None:
        """Count how an attempt ended; the last 20 of each agent and capability matter."""
        if self._histories[agent_id, capability].add(success):
            self._ranked.pop(capability, None)

    def agents(self) -> list[AgentInfo]:
        """Every registered agent as it is now, by name."""
        return [_info(self._members[agent_id]) for agent_id in sorted(self._members)]

    def find(self, agent_id: str) -> Registration:
        """The registration of an agent. Raises NotFound."""
        member = self._members.get(agent_id)
        return self._member(agent_id).registration if member is None else member.registration

    def has_worker(self, agent_id: str) -> bool:
        """Whether an agent is registered that takes tasks, and is not offline."""
        member = self._members.get(agent_id)
        return member is not None and _takes_tasks(member) and member.status != "offline"

    def check_agent(
        self, agent_id: str, others: Collection[str] = (), *, field: str = "agent_id", remedy: str
    ) -> None:
        """Raise InvalidInput for an agent that is not registered, the llm-service or one of `others`."""
        agent_ids = [info.agent_id for info in self.agents() if info.kind != "system"]
        if agent_id not in (*agent_ids, *others, LLM_SERVICE):
            likely = nearest(agent_id, [*agent_ids, *others])
            raise InvalidInput(
                f"The mesh has no agent {agent_id!r}; it has {', '.join(agent_ids) or 'none'}",
                remedy=f"Did you mean {likely!r}? {remedy}" if likely else remedy,
                field=field,
            )

    def capabilities(self) -> list[str]:
        """The names of all that some agent can do, offline or not."""
        workers = (member.registration for member in self._members.values() if _takes_tasks(member))
        return sorted({capability.name for worker in workers for capability in worker.capabilities})

    def scores(self, capability: str, *, exclude: Collection[str] = ()) -> list[ScoreCard]:
        """The cards of all agents that have the capability and are not offline, best first.

        Equal scores: online before degraded, then by agent id. Unhealthy agents are listed with 0.
        """
        ranked = self._ranked.get(capability)
        if ranked is None:
            ranked = self._rank(capability)
        return [card for card in ranked if card.agent_id not in exclude]

    def best(
        self,
        capability: str | None,
        *,
        exclude: Collection[str] = (),
        agent_id: str | None = None,
        payload: dict[str, Any] | None = None,
    ) -> ScoreCard:
        """The card of the agent to choose; with `agent_id` only that one is considered.

        Without a capability the named agent is scored for the first that it declares. An agent whose last
        tasks all failed may still be chosen where there is no other; an offline or unhealthy one may not, nor
        one whose schema a `payload` does not fit, if given.
        Raises NotFound for an agent id that is not known, NoAgentAvailable with the reason otherwise.
        """
        if agent_id is not None:
            capability = self._find_capability(agent_id, capability or None)
        if not capability:
            raise InvalidInput(
                "neither a capability nor an agent was named", remedy="name one of them", field="capability"
            )
        for card in self.scores(capability, exclude=exclude):
            is_able = card.health and agent_id in (None, card.agent_id)
            if is_able and (payload is None or not self._misfit(card.agent_id, capability, payload)):
                return card
        raise self._nobody(capability, exclude, agent_id, payload)

    def others(self, chosen: ScoreCard) -> tuple[ScoreCard, ...]:
        """The cards of the other agents that have the capability of a card, at most 10, the best first."""
        ranked = self._ranked.get(chosen.capability, ())
        if len(ranked) < 2:
            return ()
        return tuple(card for card in ranked if card.agent_id != chosen.agent_id)[:_MAX_OTHERS]

    def choose(self, task: Task) -> ScoreCard:
        """The card of the best agent for a new task that can do it and takes its payload.

        A task that names its agent alone is checked if that has exactly one capability: of several it is not
        known which is meant. A task that goes on from a step of another was checked with that one.
        Raises what `best` raises, and InvalidInput if no agent takes the payload, saying why the best does
        not.
        """
        card = self.best(task.capability or None, agent_id=task.agent_id)
        is_meant = task.capability or len(self.find(card.agent_id).capabilities) == 1
        if not is_meant or task.forked_from is not None:
            return card
        misfit = self._misfit(card.agent_id, card.capability, task.payload)
        if misfit is None:
            return card
        if task.agent_id is None:
            with suppress(NoAgentAvailable):
                return self.best(task.capability, payload=task.payload)
        raise misfit

    def _misfit(self, agent_id: str, name: str, payload: dict[str, Any]) -> InvalidInput | None:
        capability = self.find(agent_id).capability(name)
        schema = None if capability is None else capability.input_schema
        if schema is None or not (misfits := faults(schema, payload, "payload")):
            return None
        return InvalidInput(
            f"The payload does not fit {name} of {agent_id}: {fault_text(misfits)}",
            remedy=f"Send {described(schema)}; mesh agents show {agent_id} describes each field",
            field=misfits[0].path,
        )

    def _member(self, agent_id: str) -> _Member:
        member = self._members.get(agent_id)
        if member is None:
            remedy = _A_CAPABILITY if agent_id in self.capabilities() else _WHERE_TO_LOOK
            raise NotFound(f"no agent {agent_id!r} is registered", remedy=remedy, field="agent_id")
        return member

    def _judge(self, member: _Member, now: datetime) -> StatusChange | None:
        silent_seconds = (now - member.last_seen).total_seconds()
        before, member.status = member.status, self._status_after(silent_seconds)
        if member.status == before:
            return None
        agent_id = member.registration.agent_id
        event_type = "agent.recovered" if member.status == "online" else f"agent.{member.status}"
        payload = {
            "agent_id": agent_id,
            "status": member.status,
            "was": before,
            "silent_seconds": silent_seconds,
        }
        return StatusChange(agent_id, event_type, payload)

    def _status_after(self, silent_seconds: float) -> AgentStatus:
        if silent_seconds > self._offline_after_seconds:
            return "offline"
        return "degraded" if silent_seconds > self._degraded_after_seconds else "online"

    def _rank(self, capability: str) -> tuple[ScoreCard, ...]:
        ranked = sorted(
            (-card.score, member.status == "degraded", card.agent_id, card)
            for member in self._members.values()
            if member.status != "offline" and (card := self._card(member, capability))
        )
        cards = tuple(card for *_, card in ranked)
        if cards:  # else a caller that invents names could fill the memory
            self._ranked[capability] = cards
        return cards

    def _card(self, member: _Member, name: str) -> ScoreCard | None:
        agent_id = member.registration.agent_id
        capability = member.registration.capability(name) if _takes_tasks(member) else None
        if capability is None:
            return None
        history = self._histories[agent_id, name]
        healthy = member.problem is None and name not in member.registration.unmet
        return score_card(agent_id, capability, healthy=healthy, history=history)

    def _find_capability(self, agent_id: str, name: str | None) -> str:
        member = self._member(agent_id)
        if not _takes_tasks(member):
            raise NotFound(
                f"{agent_id!r} is a part of the mesh and takes no tasks",
                remedy=_WHERE_TO_LOOK,
                field="agent_id",
            )
        offered = [capability.name for capability in member.registration.capabilities]
        offered.sort(
            key=lambda capability: capability in member.registration.unmet
        )  # those that are not first
        if name in offered:
            return name
        if name is None and offered:
            return offered[0]
        has = f"it has {', '.join(offered)}" if offered else "it declares none"
        raise NoAgentAvailable(f"{agent_id!r} has no capability {name!r}", remedy=has, field="capability")

    def _nobody(
        self, capability: str, exclude: Collection[str], agent_id: str | None, payload: dict[str, Any] | None
    ) -> NoAgentAvailable:
        having = [
            member
            for member in self._members.values()
            if _takes_tasks(member)
            and member.registration.capability(capability)
            and agent_id in (None, member.registration.agent_id)
        ]
        if not having:
            capabilities = ", ".join(self.capabilities()) or "none: no agent is registered"
            remedy = f"known are {capabilities}"
            if capability in self._members and _takes_tasks(self._members[capability]):
                remedy = (
                    f"that is an agent: name it as agent_id (mesh submit AGENT, mesh ask AGENT); {remedy}"
                )
            return NoAgentAvailable(
                f"no agent has the capability {capability!r}", remedy=remedy, field="capability"
            )
        reasons = "; ".join(self._why_not(member, capability, exclude, payload) for member in having)
        return NoAgentAvailable(
            f"no agent is available for {capability!r}: {reasons}", remedy=_WHERE_TO_LOOK, field="capability"
        )

    def _why_not(
        self, member: _Member, capability: str, exclude: Collection[str], payload: dict[str, Any] | None
    ) -> str:
        agent_id = member.registration.agent_id
        if agent_id in exclude:
            return f"{agent_id} has failed at it"
        if member.status == "offline":
            return f"{agent_id} is offline, last seen {member.last_seen:%Y-%m-%dT%H:%M:%SZ}"
        if payload is not None and (misfit := self._misfit(agent_id, capability, payload)) is not None:
            return misfit.message
        if member.problem is None:
            return f"{agent_id} has no tools for it: {member.registration.unmet.get(capability)}"
        return f"{agent_id} depends on what does not answer: {member.problem}"


def _takes_tasks(member: _Member) -> bool:
    return member.registration.kind == "agent"


def _info(member: _Member) -> AgentInfo:
    return AgentInfo(
        **dict(member.registration),
        status=member.status,
        last_seen=member.last_seen,
        healthy=member.problem is None,
        problem=member.problem,
    )
