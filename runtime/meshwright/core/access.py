"""Roles: the rights of a caller within its tenant."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache


class Role(StrEnum):
    """The rights of a caller within its tenant.

    `viewer` sees facts: states of tasks, agents, costs, status, events without their contents. `contents`
    sees payloads, outcomes, prompts, transcripts and memories too. `submitter` makes tasks, calls models, and
    sees, cancels and answers its own tasks. `operator` cancels, retries, and manages budgets and schedules.
    `approver` answers questions and decides on approvals. `worker` claims the tasks of external agents, and
    decides on their outcomes. `admin` manages keys and configuration, and has
    every other role.
    """

    VIEWER = "viewer"
    CONTENTS = "contents"
    SUBMITTER = "submitter"
    OPERATOR = "operator"
    APPROVER = "approver"
    WORKER = "worker"
    ADMIN = "admin"


ALL_ROLES = frozenset(Role)
KEY_ROLES = (Role.SUBMITTER, Role.VIEWER, Role.CONTENTS)
"""The roles of a key that names none."""
_IMPLIED = {
    Role.CONTENTS: {Role.VIEWER},
    Role.OPERATOR: {Role.VIEWER},
    Role.APPROVER: {Role.VIEWER, Role.CONTENTS},  # to decide on what one cannot see is no decision
    Role.ADMIN: ALL_ROLES,
}


@lru_cache(maxsize=256)
def granted(roles: frozenset[str]) -> frozenset[str]:
    """The roles, and all that they imply. Unknown ones grant nothing."""
    return frozenset(role for name in roles & ALL_ROLES for role in {name, *_IMPLIED.get(Role(name), ())})


def in_order(roles: Iterable[str]) -> str:
    """Roles as text, in the order of `Role`; `no role` for none."""
    return ", ".join(role for role in Role if role in set(roles)) or "no role"
