"""Board events: what happened to issues, pull requests and cards, the same for every forge.

They are events of the mesh on the topic `board`, for views and for runs that wait for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshwright.edges.webhooks.kinds import Item, field_of

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
    (event, action): (f"board.{what}_{done}", _ATTRIBUTES)
    for event, what in (("Issue Hook", "issue"), ("Merge Request Hook", "pull_request"))
    for action, done in (
        ("open", "opened"),
        ("update", "edited"),
        ("close", "closed"),
        ("reopen", "reopened"),
        ("merge", "merged"),
        ("approved", "reviewed"),
    )
}


def board_event(kind: str, item: Item) -> tuple[str, dict[str, Any]] | None:
    """Returns the type and the payload of the event that a delivery is for a board; None where it is none."""
    if kind == "github":
        found = _GITHUB.get((item.event, _text(item, "action")))
        places = ("repository.full_name", "number", "sender.login", "html_url")
    elif kind == "gitlab":
        found = _GITLAB.get((item.event, _text(item, "object_attributes.action")))
        places = ("project.path_with_namespace", "iid", "user.username", "url")
    else:
        return None
    if found is None:
        return None
    event_type, subject = found
    if event_type == "board.pull_request_closed" and field_of(item.fields, "pull_request.merged") is True:
        event_type = "board.pull_request_merged"
    repository, number, actor, url = places
    return event_type, {
        "repository": _text(item, repository),
        "number": field_of(item.fields, f"{subject}.{number}"),
        "title": _text(item, f"{subject}.title"),
        "actor": _text(item, actor),
        "url": _text(item, f"{subject}.{url}"),
    }


def _text(item: Item, path: str) -> str:
    value = field_of(item.fields, path)
    return value[:_MAX_CHARS] if isinstance(value, str) else ""
