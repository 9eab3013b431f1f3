"""The kinds of sources, as data: the places of the signature, the id of a delivery and the event's name.

GitHub's and GitLab's headers are in their documentation of deliveries. Alertmanager (version 4) and Grafana
send alerts in groups, again and again while they fire: each alert is an event of its own, and is known by its
fingerprint, its start and its status.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from meshwright.core.comments import MARKER as MARKER
from meshwright.core.comments import is_marked
from meshwright.core.encoding import encode
from meshwright.edges.deliveries import STANDARD_PREFIX, SignatureKind
from meshwright.edges.webhooks.settings import WebhookSource

_MAX_ID_CHARS = 150
_USABLE_ID = re.compile(rf"[!-~]{{1,{_MAX_ID_CHARS}}}")
_Fields = Mapping[str, Any]
_ALERT_FIELDS = ("fingerprint", "startsAt", "status")


@dataclass(frozen=True, slots=True)
class DeliveryKind(SignatureKind):
    """The places of a source's deliveries: signature, id, event. `id_headers` are tried in order."""

    id_headers: tuple[str, ...] = ()
    id_fields: tuple[str, ...] = ()
    event_header: str = ""
    event_field: str = ""
    items: str = ""
    """The field with a list of events; then each of them is one, under the name `item`."""
    item: str = ""
    comments: tuple[str, ...] = ()
    """The places of a comment's text: our own are no events."""
    action: str = ""
    """The place of what was done: `edited` to a comment, for example."""
    once: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """The fields that name what happens only once, by event and action: another hook tells of the same.
    The first has to be there."""


_EDITED = ("edited", "update")
_COMMENT = ("comment.id", "comment.body")
_GITHUB_ONCE = {
    **{
        (event, action): paths
        for event in ("issue_comment", "pull_request_review_comment", "discussion_comment", "commit_comment")
        for action, paths in (("created", _COMMENT), ("edited", (*_COMMENT, "comment.updated_at")))
    },
    ("pull_request_review", "submitted"): ("review.id", "review.body"),
    ("issues", "opened"): ("issue.id", "issue.title", "issue.body"),
    ("pull_request", "opened"): ("pull_request.id", "pull_request.title", "pull_request.body"),
}
_GITLAB_ONCE = {
    ("Note Hook", "create"): ("object_attributes.id", "object_attributes.note"),
    ("Issue Hook", "open"): ("object_attributes.id", "object_attributes.title"),
    ("Merge Request Hook", "open"): ("object_attributes.id", "object_attributes.title"),
}

_KINDS: Mapping[str, DeliveryKind] = {
    "github": DeliveryKind(
        headers=("x-hub-signature-256",),
        prefix="sha256=",
        id_headers=("x-github-delivery",),
        event_header="x-github-event",
        comments=("comment.body", "review.body"),
        action="action",
        once=_GITHUB_ONCE,
    ),
    # X-Gitlab-Webhook-UUID is another at each try, X-Gitlab-Event-UUID the same for what a webhook causes.
    "gitlab": DeliveryKind(
        scheme="token",
        headers=("x-gitlab-token",),
        id_headers=("idempotency-key", "webhook-id"),
        event_header="x-gitlab-event",
        comments=("object_attributes.note",),
        action="object_attributes.action",
        once=_GITLAB_ONCE,
    ),
    "alertmanager": DeliveryKind(
        scheme="bearer", id_fields=_ALERT_FIELDS, event_field="status", items="alerts", item="alert"
    ),
    "grafana": DeliveryKind(
        headers=("x-grafana-alerting-signature", "x-grafana-alert-signature"),
        id_fields=_ALERT_FIELDS,
        event_field="status",
        items="alerts",
        item="alert",
    ),
    "generic": DeliveryKind(id_headers=("webhook-id", "idempotency-key")),
}


def delivery_kind(source: WebhookSource, secret: str = "") -> DeliveryKind:
    """Returns a source's kind, with what its settings have instead, for what is signed with a secret."""
    kind = _KINDS[source.kind]
    if source.kind != "generic" and secret.startswith(STANDARD_PREFIX):
        kind = replace(kind, scheme="standard")  # as GitLab signs where a signing token is set
    overrides: dict[str, Any] = {
        "scheme": source.scheme,
        "headers": (source.header,) if source.header else None,
        "prefix": source.prefix,
        "timestamp_header": source.timestamp_header,
        "id_headers": (source.id_header,) if source.id_header else None,
        "id_fields": source.id_fields,
        "event_header": source.event_header,
        "event_field": source.event_field,
    }
    if source.id_fields and not source.id_header:
        overrides["id_headers"] = ()
    return replace(kind, **{name: value for name, value in overrides.items() if value is not None})


class DeliveryItem(NamedTuple):
    """One event of a delivery, with its fields; `delivery_id` stays the same when it is sent again.

    `happening` names what it tells of, and is the same for each hook that tells of that.
    """

    delivery_id: str
    event: str
    fields: _Fields
    happening: str = ""

    @property
    def task_key(self) -> str:
        """The name of the event for its tasks: two hooks that tell of the same make one."""
        return self.happening or self.delivery_id


def delivery_items(
    kind: DeliveryKind, headers: Mapping[str, str], body: bytes, document: _Fields
) -> Iterator[DeliveryItem]:
    """Yields the events of a delivery."""
    items = document.get(kind.items) if kind.items else None
    if not isinstance(items, list):
        yield _item(kind, headers, body, document, document)
        return
    rest = {name: value for name, value in document.items() if name != kind.items}
    for one in items:
        if isinstance(one, dict):
            yield _item(kind, headers, body, one, {**rest, kind.item: one})


def _item(
    kind: DeliveryKind, headers: Mapping[str, str], body: bytes, own: _Fields, fields: _Fields
) -> DeliveryItem:
    """`own` are the fields that name the event, within all of its `fields`."""
    delivery_id = next((headers[name] for name in kind.id_headers if headers.get(name)), "")
    if kind.id_fields and not delivery_id:
        values = [get_field(own, path) for path in kind.id_fields]
        delivery_id = "" if None in values else "|".join(map(str, values))
    if not delivery_id:
        delivery_id = _digest(body if own is fields else encode(own))
    if not _USABLE_ID.fullmatch(delivery_id):
        delivery_id = _digest(delivery_id.encode(errors="replace"))
    event = headers.get(kind.event_header, "") if kind.event_header else get_field(own, kind.event_field)
    event = event if isinstance(event, str) else ""
    return DeliveryItem(delivery_id, event, fields, _happening(kind, event, fields))


def _happening(kind: DeliveryKind, event: str, fields: _Fields) -> str:
    action = str(get_field(fields, kind.action)) if kind.action else ""
    values = [get_field(fields, path) for path in kind.once.get((event, action), ())]
    return _digest(encode([event, action, *values])) if values and values[0] else ""


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def is_own(kind: DeliveryKind, item: DeliveryItem) -> bool:
    """Whether this is a comment that a mesh has written itself: an answer to it would be answered again."""
    is_edited = get_field(item.fields, kind.action) in _EDITED if kind.action else False
    before = get_field(item.fields, "changes.body.from") if is_edited else None
    if isinstance(before, str):
        return is_marked(before)
    texts = (get_field(item.fields, path) for path in kind.comments)
    return any(is_marked(text, is_edited=is_edited) for text in texts if isinstance(text, str))


def get_field(fields: Any, path: str) -> Any:
    """Returns the value at a dotted path, None where there is none. A number is a place in a list."""
    for name in path.split("."):
        if isinstance(fields, Mapping):
            fields = fields.get(name)
        elif isinstance(fields, list) and name.isdecimal() and len(name) < 6 and int(name) < len(fields):
            fields = fields[int(name)]
        else:
            return None
    return fields


# Board events: the changes of issues, pull requests and cards, the same for every forge

_MAX_CHARS = 500  # of a field
_ISSUE, _PULL = "issue", "pull_request"

# (event, action): what happened, and to which field of the delivery.
_GITHUB: Mapping[tuple[str, str], tuple[str, str]] = {
    **{
        ("issues", action): (f"board.issue_{action}", _ISSUE)
        for action in (
            "opened",
            "edited",
            "closed",
            "reopened",
            "assigned",
            "unassigned",
            "labeled",
            "unlabeled",
        )
    },
    ("issues", "transferred"): ("board.issue_moved", _ISSUE),
    **{
        ("pull_request", action): (f"board.pull_request_{action}", _PULL)
        for action in ("opened", "edited", "closed", "reopened", "assigned", "labeled", "review_requested")
    },
    ("pull_request", "ready_for_review"): ("board.pull_request_ready", _PULL),
    ("pull_request", "synchronize"): ("board.pull_request_updated", _PULL),
    ("pull_request_review", "submitted"): ("board.pull_request_reviewed", _PULL),
    ("issue_comment", "created"): ("board.commented", _ISSUE),
    ("project_card", "moved"): ("board.card_moved", "project_card"),
    ("projects_v2_item", "created"): ("board.card_added", "projects_v2_item"),
    ("projects_v2_item", "edited"): ("board.card_moved", "projects_v2_item"),
    ("projects_v2_item", "reordered"): ("board.card_moved", "projects_v2_item"),
    ("projects_v2_item", "archived"): ("board.card_archived", "projects_v2_item"),
}
_ATTRIBUTES = "object_attributes"
_GITLAB: Mapping[tuple[str, str], tuple[str, str]] = {
    (event, action): (f"board.{what}_{change}", _ATTRIBUTES)
    for event, what in (("Issue Hook", "issue"), ("Merge Request Hook", "pull_request"))
    for action, change in (
        ("open", "opened"),
        ("update", "edited"),
        ("close", "closed"),
        ("reopen", "reopened"),
        ("merge", "merged"),
        ("approved", "reviewed"),
    )
}


def board_event(kind: str, item: DeliveryItem) -> tuple[str, dict[str, Any]] | None:
    """Returns the type and the payload of the event that a delivery is for a board; None where it is none."""
    if kind == "github":
        match = _GITHUB.get((item.event, _text(item, "action")))
        places = ("repository.full_name", "number", "sender.login", "html_url")
    elif kind == "gitlab":
        match = _GITLAB.get((item.event, _text(item, "object_attributes.action")))
        places = ("project.path_with_namespace", "iid", "user.username", "url")
    else:
        return None
    if match is None:
        return None
    event_type, subject = match
    if event_type == "board.pull_request_closed" and get_field(item.fields, "pull_request.merged") is True:
        event_type = "board.pull_request_merged"
    repository, number, actor, url = places
    return event_type, {
        "repository": _text(item, repository),
        "number": get_field(item.fields, f"{subject}.{number}"),
        "title": _text(item, f"{subject}.title"),
        "actor": _text(item, actor),
        "url": _text(item, f"{subject}.{url}"),
    }


def _text(item: DeliveryItem, path: str) -> str:
    value = get_field(item.fields, path)
    return value[:_MAX_CHARS] if isinstance(value, str) else ""
