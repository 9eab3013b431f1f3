"""Rules: which events of a source become a task, which task, and where its outcome is posted.

What a delivery holds is the text of strangers. It is put into `payload.text` and nowhere else, once and as it
is: nothing in it is looked up or run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from meshwright.core.encoding import encode
from meshwright.core.errors import ConfigError
from meshwright.core.messages import ID_PATTERN, TaskRequest, derived_id
from meshwright.edges.webhooks.kinds import Item, field_of
from meshwright.edges.webhooks.settings import WebhookRule, WebhooksSettings

_PLACE = re.compile(r"\{\{\s{0,8}([\w.-]{1,200})\s{0,8}\}\}")
_MAX_VALUE_CHARS = 20_000
_MAX_TEXT_CHARS = 40_000
_JSON_BYTES = 6  # that a character of a text may take
_MAX_SLUG_CHARS = 40
_HASH_CHARS = 12
_CUT = " [cut]"


class TaskRule:
    """One rule of the settings, ready for use."""

    def __init__(self, settings: WebhookRule) -> None:
        self.settings = settings
        match = {path: list(patterns) for path, patterns in sorted(settings.match.items())}
        parts = (settings.source, encode(match).decode(), settings.agent or "", settings.capability or "")
        self.rule_id = settings.name or derived_id(*parts)[:_HASH_CHARS].lower()

    def fits(self, item: Item) -> bool:
        """Whether an event becomes a task by this rule."""
        return all(_fits(_text_at(item, path), patterns) for path, patterns in self.settings.match.items())

    def request(self, item: Item, tenant_id: str, max_payload_bytes: int) -> TaskRequest:
        """Returns the task of an event: the same event of a tenant's source is always the same task."""
        settings = self.settings
        limit = min(_MAX_TEXT_CHARS, max_payload_bytes // _JSON_BYTES - len('{"text":""}'))
        return TaskRequest(
            task_id=derived_id(tenant_id, f"webhook:{settings.source}", item.delivery_id, self.rule_id),
            agent_id=settings.agent,
            capability=settings.capability,
            payload={"text": _cut(render(settings.text, item), limit)},
            thread_id=self._thread(item),
            budget_usd=settings.budget_usd,
            timeout=settings.timeout,
            deadline=settings.deadline,
        )

    def _thread(self, item: Item) -> str | None:
        """Returns an id for a thread. One with fields in it is apart from those that people name."""
        if self.settings.thread is None:
            return None
        named = render(self.settings.thread, item)
        if not named.strip():
            return None
        if named == self.settings.thread and re.fullmatch(ID_PATTERN, named):
            return named
        slug = re.sub(r"[^A-Za-z0-9]+", "-", named)[:_MAX_SLUG_CHARS].strip("-")
        return f"{slug}-{derived_id(self.settings.source, named)[:_HASH_CHARS].lower()}".lstrip("-")


def rules_of(settings: WebhooksSettings) -> Mapping[str, tuple[TaskRule, ...]]:
    """Returns the rules of each source. Raises ConfigError for two that nothing distinguishes."""
    found: dict[str, dict[str, TaskRule]] = {name: {} for name in settings.sources}
    for number, rule in enumerate(map(TaskRule, settings.rules), start=1):
        of_source = found[rule.settings.source]
        if rule.rule_id in of_source:
            raise ConfigError(
                f"[[webhooks.rules]] number {number} is the same as an earlier one, or has its name",
                remedy="Give each a name of its own",
                field="webhooks",
            )
        of_source[rule.rule_id] = rule
    return {name: tuple(rules.values()) for name, rules in found.items()}


def render(template: str, item: Item) -> str:
    """Returns a template with the fields of an event in their places, each at most 20,000 characters long."""
    return _PLACE.sub(lambda place: _cut(_text_at(item, place[1]) or "", _MAX_VALUE_CHARS), template)


def _fits(text: str | None, patterns: Iterable[str]) -> bool:
    return text is not None and any(fnmatchcase(text, pattern) for pattern in patterns)


def _text_at(item: Item, path: str) -> str | None:
    value: Any = item.event if path == "event" else field_of(item.fields, path)
    if value is None or isinstance(value, str):
        return value
    return encode(value).decode()


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: max(0, limit - len(_CUT))] + _CUT
