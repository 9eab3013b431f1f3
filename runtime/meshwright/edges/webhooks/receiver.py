"""Takes deliveries: proves who sent them, makes their tasks by rules, and answers once those are durable.

A delivery holds the text of strangers. It is put into the payload where its rule says, once and as it is:
nothing in it is looked up or run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from meshwright.agents.agent import Agent
from meshwright.core.capability import Capability
from meshwright.core.encoding import encode
from meshwright.core.errors import ConfigError, IdempotencyConflict, MeshError
from meshwright.core.events import Event
from meshwright.core.ids import ID_PATTERN, derived_id
from meshwright.core.messages import Caller, TaskRequest
from meshwright.core.payloads import Payload
from meshwright.core.schema import fault_text, faults
from meshwright.edges.deliveries import Gate, Proof, json_object, make_proof
from meshwright.edges.event_types import BoardChanged, ReplyUnsent, WebhookFailed, WebhookReceived
from meshwright.edges.replies.courier import Courier
from meshwright.edges.webhooks.kinds import (
    DeliveryItem,
    board_event,
    delivery_items,
    delivery_kind,
    get_field,
    is_own,
)
from meshwright.edges.webhooks.senders import FORGE, event_subject, forge_address
from meshwright.edges.webhooks.settings import (
    MAX_TASKS_OF_ISSUE,
    WebhookRule,
    WebhookSource,
    WebhooksSettings,
)
from meshwright.engine.events.filter import MAX_LIMIT, EventFilter
from meshwright.engine.work.protocol import TaskKey
from meshwright.mesh.identity.operations import Operations
from meshwright.mesh.mesh import Mesh

_PLACE = re.compile(r"\{\{\s{0,8}([\w.-]{1,200})\s{0,8}\}\}")
_MAX_VALUE_CHARS = 20_000
_MAX_TEXT_CHARS = 40_000
_JSON_BYTES = 6  # that a character of a text may take
_MAX_SLUG_CHARS = 40
_HASH_CHARS = 12
_CUT = " [cut]"
_MAX_SHOWN_CHARS = 80  # of a value or pattern in a reason
_MAX_MISSES = 3  # of a reason
_HOUR = timedelta(hours=1)
_Counted = tuple[str, str, str]
"""A rule, the issue or thread for which it has made a task, and the task."""
_OWN = "a mesh wrote this comment: an answer to it would be answered again"


class TaskRule:
    """One rule of the settings, ready for use."""

    def __init__(self, settings: WebhookRule, *, outside: bool = False) -> None:
        self.settings = settings
        self._outside = outside
        match = {path: list(patterns) for path, patterns in sorted(settings.match.items())}
        parts = (settings.source, encode(match).decode(), settings.agent or "", settings.capability or "")
        self.rule_id = settings.name or derived_id(*parts)[:_HASH_CHARS].lower()

    def fits(self, item: DeliveryItem) -> bool:
        """Whether an event becomes a task by this rule."""
        return not self.miss(item) and not self.exclusion(item)

    def miss(self, item: DeliveryItem) -> str:
        """Returns why an event becomes no task by this rule, empty where it does."""
        for path, patterns in self.settings.match.items():
            if not _fits(text := _text_at(item, path), patterns):
                is_it = "is missing" if text is None else f"is {_quoted(text)}"
                return f"rule {self.rule_id} matches {path} = {_listed(patterns)}, and it {is_it}"
        return ""

    def exclusion(self, item: DeliveryItem) -> str:
        """Returns why an event that matches is excluded all the same, empty where it is not."""
        for path, patterns in self.settings.unless.items():
            if _fits(text := _text_at(item, path), patterns):
                return f"rule {self.rule_id} takes nothing where {path} is {_quoted(text or '')}"
        return ""

    def request(self, item: DeliveryItem, tenant_id: str, max_payload_bytes: int) -> TaskRequest:
        """Returns the task of an event: the same event of a tenant's source is always the same task."""
        settings = self.settings
        payload = _filled(settings.payload, item)
        if settings.text is not None:
            room = (max_payload_bytes - len(encode({**payload, "text": ""}))) // _JSON_BYTES
            payload["text"] = _cut(render(settings.text, item), min(_MAX_TEXT_CHARS, room))
        return TaskRequest(
            task_id=derived_id(tenant_id, f"webhook:{settings.source}", item.task_key, self.rule_id),
            agent_id=settings.agent,
            capability=settings.capability,
            payload=payload,
            thread_id=self._thread(item),
            budget_usd=settings.budget_usd,
            timeout=settings.timeout,
            deadline=settings.deadline,
            outside=self._outside,
        )

    def _thread(self, item: DeliveryItem) -> str | None:
        """Returns an id for a thread. One with fields in it is apart from those that people name."""
        if self.settings.thread is None:
            return None
        thread = render(self.settings.thread, item)
        if not thread.strip():
            return None
        if thread == self.settings.thread and re.fullmatch(ID_PATTERN, thread):
            return thread
        slug = re.sub(r"[^A-Za-z0-9]+", "-", thread)[:_MAX_SLUG_CHARS].strip("-")
        return f"{slug}-{derived_id(self.settings.source, thread)[:_HASH_CHARS].lower()}".lstrip("-")


def compile_rules(settings: WebhooksSettings) -> Mapping[str, tuple[TaskRule, ...]]:
    """Returns the rules of each source. Raises ConfigError for two that nothing distinguishes."""
    rules_by_source: dict[str, dict[str, TaskRule]] = {name: {} for name in settings.sources}
    for number, rule_settings in enumerate(settings.rules, start=1):
        rule = TaskRule(rule_settings, outside=settings.sources[rule_settings.source].is_outside)
        of_source = rules_by_source[rule_settings.source]
        if rule.rule_id in of_source:
            raise ConfigError(
                f"[[webhooks.rules]] number {number} is the same as an earlier one, or has its name",
                remedy="Give each a name of its own",
                field="webhooks",
            )
        of_source[rule.rule_id] = rule
    return {name: tuple(rules.values()) for name, rules in rules_by_source.items()}


def render(template: str, item: DeliveryItem) -> str:
    """Returns a template with the fields of an event in their places, each at most 20,000 characters long."""
    return _PLACE.sub(lambda place: _cut(_text_at(item, place[1]) or "", _MAX_VALUE_CHARS), template)


def _filled(value: Any, item: DeliveryItem) -> Any:
    """Returns plain data with the fields of an event in their places."""
    if isinstance(value, str):
        place = _PLACE.fullmatch(value)
        return render(value, item) if place is None else _value_at(item, place[1])
    if isinstance(value, Mapping):
        filled = {name: _filled(inner, item) for name, inner in value.items()}
        return {name: inner for name, inner in filled.items() if inner is not None}
    if isinstance(value, list):
        return [_filled(inner, item) for inner in value]
    return value


def misfit(
    rule: WebhookRule, agents: Iterable[type[Agent]], payload: Mapping[str, Any], *, is_filled: bool = True
) -> str:
    """Returns why no agent that a rule is for takes a payload, empty where one does.

    Of one that no delivery has filled, values with templates are not compared.
    """
    reasons = []
    for agent, capability in _receivers(rule, agents):
        problems = faults(capability.input_schema or {}, dict(payload), "payload")
        if not is_filled:
            problems = [fault for fault in problems if not _is_template({"payload": payload}, fault.path)]
        if not problems:
            return ""
        reasons.append(f"{capability.name} of {agent.agent_id} does not take it: {fault_text(problems)}")
    return reasons[0] if reasons else ""


def _receivers(rule: WebhookRule, agents: Iterable[type[Agent]]) -> Iterator[tuple[type[Agent], Capability]]:
    """Yields the agents that a rule is for, each with the capability that its payload is for, if one is."""
    for agent in agents:
        if rule.agent in (None, agent.agent_id):
            for capability in agent.capabilities:
                if rule.capability == capability.name or (
                    rule.capability is None and len(agent.capabilities) == 1
                ):
                    yield agent, capability


def _is_template(payload: Mapping[str, Any], path: str) -> bool:
    value = get_field(payload, path)
    return isinstance(value, str) and _PLACE.search(value) is not None


def _fits(text: str | None, patterns: Iterable[str]) -> bool:
    return text is not None and any(fnmatchcase(text, pattern) for pattern in patterns)


def _quoted(text: str) -> str:
    return repr(_cut(text, _MAX_SHOWN_CHARS))


def _listed(patterns: Sequence[str]) -> str:
    return _cut(" or ".join(map(repr, patterns)), _MAX_SHOWN_CHARS)


def _text_at(item: DeliveryItem, path: str) -> str | None:
    value = _value_at(item, path)
    return value if value is None or isinstance(value, str) else encode(value).decode()


def _value_at(item: DeliveryItem, path: str) -> Any:
    value: Any = item.event if path == "event" else get_field(item.fields, path)
    return _cut(value, _MAX_VALUE_CHARS) if isinstance(value, str) else value


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: max(0, limit - len(_CUT))] + _CUT


_logger = logging.getLogger("meshwright.edges.webhooks")


class ChosenRules(NamedTuple):
    """The rules that make tasks of an event; `dropped` says why others that match do not.

    `missed` says why none matches.
    """

    rules: Sequence[TaskRule]
    dropped: Sequence[str] = ()
    missed: str = ""


class AcceptedDelivery(NamedTuple):
    """The tasks of a delivery, and why rules that match have made none."""

    tasks: list[str]
    dropped: list[str]


class _Brake:
    """Counts the tasks that rules have made within an hour, for each source and issue or thread.

    Those of other processes, and of this one before it was started, are in the log.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._tasks: dict[tuple[str, str, str], dict[str, datetime]] = {}
        self._seq: int | None = None

    async def reason(
        self, source: str, rule: TaskRule, request: TaskRequest, subject: str, counted: list[_Counted]
    ) -> str:
        """Returns why a rule may not make a task now, empty where it may: then the task is counted.

        `subject` is the issue that it is about, if it is about one; `counted` takes the task for the log.
        """
        limit = rule.settings.max_per_hour or (MAX_TASKS_OF_ISSUE if subject else None)
        if limit is None:
            return ""
        now = self._mesh.runtime.clock.now()
        await self._read(now - _HOUR)
        self._forget(now - _HOUR)
        place = subject or request.thread_id or ""
        tasks = self._tasks.setdefault((source, rule.rule_id, place), {})
        task_id = request.task_id or ""
        if task_id not in tasks and len(tasks) >= limit:
            where = f" for {place}" if place else ""
            return f"rule {rule.rule_id} has made {limit} tasks within an hour{where} (max_per_hour)"
        tasks.setdefault(task_id, now)
        counted.append((rule.rule_id, place, task_id))
        return ""

    async def _read(self, since: datetime) -> None:
        """Count what the log has got since the last time."""
        query = EventFilter(
            event_type=WebhookReceived.event_type, since=since, after_seq=self._seq, limit=MAX_LIMIT
        )
        events = await self._mesh.log.query(query)
        while events:
            for event in events:
                if (received := WebhookReceived.read(event)) is None:
                    continue
                for rule_id, place, task_id in received.counted:
                    tasks = self._tasks.setdefault((received.source, rule_id, place), {})
                    tasks.setdefault(task_id, event.time)
            self._seq = events[-1].seq
            if len(events) < MAX_LIMIT:
                return
            events = await self._mesh.log.query(query.model_copy(update={"after_seq": self._seq}))

    def _forget(self, before: datetime) -> None:
        for key, tasks in [*self._tasks.items()]:
            for task_id in [task_id for task_id, at in tasks.items() if at <= before]:
                del tasks[task_id]
            if not tasks:
                del self._tasks[key]


class Source:
    """A source of the settings with its rules: reads deliveries, and says what they are to become."""

    def __init__(self, name: str, settings: WebhookSource, rules: Sequence[TaskRule]) -> None:
        self.name = name
        self.settings = settings
        self.rules = rules
        self.kind = delivery_kind(settings)
        by = f"webhook:{name}"
        self.caller = Caller(
            tenant_id=settings.tenant, requested_by=by, source=by, roles=frozenset({"submitter"})
        )

    def read(self, headers: Mapping[str, str], body: bytes, max_depth: int) -> list[DeliveryItem]:
        """Returns the events of a delivery. Raises UnsupportedType, MalformedJson, TooLarge."""
        return list(delivery_items(self.kind, headers, body, json_object(headers, body, max_depth)))

    def choose(self, item: DeliveryItem) -> ChosenRules:
        """Returns the rules that make a task of an event, and why others do not."""
        misses = {rule.rule_id: rule.miss(item) for rule in self.rules}
        matching = [rule for rule in self.rules if not misses[rule.rule_id]]
        if not matching:
            shown = [*misses.values()][:_MAX_MISSES]
            return ChosenRules([], missed="; ".join(shown) or f"source {self.name} has no rule")
        if is_own(self.kind, item):
            return ChosenRules([], [_OWN])
        exclusions = {rule.rule_id: rule.exclusion(item) for rule in matching}
        rules = [rule for rule in matching if not exclusions[rule.rule_id]]
        return ChosenRules(rules, [reason for reason in exclusions.values() if reason])


def _proofs(source: Source) -> list[Proof]:
    """Returns the secrets that a source's deliveries are signed with. Raises ConfigError."""
    table, settings = f"webhooks.sources.{source.name}", source.settings
    return [make_proof(table, delivery_kind(settings, secret), secret) for secret in settings.secrets]


class WebhookReceiver:
    """Turns the deliveries of sources into tasks and events of a mesh."""

    def __init__(self, mesh: Mesh, sources: Mapping[str, Source]) -> None:
        self._mesh = mesh
        self._sources = sources
        self._proofs = {name: _proofs(source) for name, source in sources.items()}
        self._gate = Gate(mesh, "webhook", "webhooks.sources")
        self._brake = _Brake(mesh)
        self._max_payload_bytes = mesh.settings.max_payload_bytes

    def source(self, name: str, address: str) -> Source:
        """Returns a source by its name. Raises Unauthenticated, which says no more than a wrong signature."""
        if name not in self._sources:
            raise self._gate.refused(name, address, f"there is no source {name!r} in [webhooks.sources]")
        return self._sources[name]

    def authenticate(self, source: Source, headers: Mapping[str, str], body: bytes, address: str) -> None:
        """Raises Unauthenticated for a delivery that a source with a secret has not signed."""
        if proofs := self._proofs[source.name]:
            self._gate.check(source.name, proofs, headers, body, address)

    async def accept(self, source: Source, items: Iterable[DeliveryItem]) -> AcceptedDelivery:
        """Make the tasks of a delivery's events; all is durable then.

        A delivery that was sent before is the same tasks. Raises what `Operations.submit` raises.
        """
        accepted = AcceptedDelivery([], [])
        for item in items:
            tasks, dropped = await self._accept(source, item)
            accepted.tasks.extend(tasks)
            accepted.dropped.extend(dropped)
        return accepted

    async def _accept(self, source: Source, item: DeliveryItem) -> AcceptedDelivery:
        chosen = source.choose(item)
        accepted, counted = AcceptedDelivery([], [*chosen.dropped]), list[_Counted]()
        for rule in chosen.rules:
            request = rule.request(item, source.settings.tenant, self._max_payload_bytes)
            subject = event_subject(source.settings.kind, item)
            if reason := await self._brake.reason(source.name, rule, request, subject, counted):
                accepted.dropped.append(reason)
                continue
            try:
                accepted.tasks.append(await self._submit(source, rule, item, request))
            except MeshError as error:
                self._tell_failed(source, rule, item, error)
                raise
        await self._record(source, item, accepted, chosen.missed, counted)
        return accepted

    async def _submit(self, source: Source, rule: TaskRule, item: DeliveryItem, request: TaskRequest) -> str:
        tenant_id = source.settings.tenant
        assert request.task_id is not None
        if (address := forge_address(source.settings.kind, rule.settings, item)) is not None:
            await self._mesh.get(Courier).ask(FORGE, TaskKey(tenant_id, request.task_id), address)
        elif rule.settings.reply != "none":
            reason = f"the delivery names nothing that a {rule.settings.reply} could go to"
            dropped = ReplyUnsent(scheme=FORGE, reason=reason)
            self._mesh.tell("reply.dropped", dropped, tenant_id=tenant_id, task_id=request.task_id)
        try:
            await Operations(self._mesh, source.caller).submit(request)
        except IdempotencyConflict:  # the same event, in words of a rule or a group that have changed since
            _logger.info("task %s of source %s was accepted before", request.task_id, source.name)
        return request.task_id

    def _tell_failed(self, source: Source, rule: TaskRule, item: DeliveryItem, error: MeshError) -> None:
        names = {"source": source.name, "rule": rule.rule_id, "delivery": item.delivery_id}
        self._mesh.tell(WebhookFailed(**names, reason=str(error)), tenant_id=source.settings.tenant)

    async def _record(
        self,
        source: Source,
        item: DeliveryItem,
        accepted: AcceptedDelivery,
        missed: str,
        counted: list[_Counted],
    ) -> None:
        """Have the event in the log, once, with what it says of a board."""
        names = {"source": source.name, "delivery": item.delivery_id}
        reason = "; ".join(accepted.dropped) or missed
        of_event = {"event": item.event, "tasks": accepted.tasks, "counted": tuple(counted)}
        received = WebhookReceived(**names, **of_event, reason=reason)
        events = [self._event(source, item, item.delivery_id, received)]
        if (board := board_event(source.settings.kind, item)) is not None:
            event_type, fields = board
            changed = BoardChanged(**names, **fields)
            events.append(self._event(source, item, item.task_key, changed, event_type))
        log = self._mesh.log
        new = [event for event in events if not await log.knows(event.id, event.aggregate_id)]
        await self._mesh.runtime.emit(new)

    def _event(
        self, source: Source, item: DeliveryItem, key: str, payload: Payload, event_type: str = ""
    ) -> Event:
        event_type = event_type or payload.event_type
        return Event(
            id=f"{event_type.partition('.')[0]}/{source.settings.tenant}/{source.name}/{key}",
            event_type=event_type,
            topic=payload.event_topic,
            time=self._mesh.runtime.clock.now(),
            tenant_id=source.settings.tenant,
            aggregate_id=f"webhooks/{source.name}",
            idempotency_key=item.delivery_id,
            payload=payload,
        )
