"""Rules: the roles that operations take, as data, the checks that go by them, and the facts that viewers see.

A caller without the right to contents sees states, names, counts, times and costs. Of an event's payload
only fields that its part names as facts are shown, and only short ones: a field that a new kind of event
brings is hidden until it is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, NamedTuple

from msgspec.structs import replace

from meshwright.core import topics
from meshwright.core.access import Role, granted, in_order
from meshwright.core.capability import LLM_SERVICE
from meshwright.core.errors import Forbidden, MeshError
from meshwright.core.messages import Caller, Event, Fault
from meshwright.events.status import MeshStatus
from meshwright.events.tasks import TaskPage
from meshwright.ledger.keys import Unauthenticated
from meshwright.models.port import CallContext
from meshwright.orchestration.settings import TenantLimit
from meshwright.work.people import is_decision
from meshwright.work.record import TaskView

ADMIN_REMEDY = (
    "Use `mesh keys` on the mesh's machine, or send Authorization: Bearer with the text of admin.token "
    "in its data folder"
)


class Rule(NamedTuple):
    """Says who may use an operation: a caller with one of `roles`.

    `does` ends the sentence `Only a caller with the role ... `, like `pauses schedules`. For a task that
    another has requested it takes the role `others`. For the role admin the caller must have shown
    credentials, wherever it is; with `all_tenants` it must be one of all tenants. Its uses count against
    `limit`.
    """

    does: str
    roles: tuple[Role, ...]
    others: Role | None = None
    of_others: str = ""
    all_tenants: bool = False
    limit: TenantLimit | None = None

    def check(self, caller: Caller, does: str = "") -> None:
        """Raises Unauthenticated for an anonymous caller who may not use the operation, Forbidden for others.

        `does` says what a caller asks for in place of what the operation does.
        """
        if Role.ADMIN in self.roles and _is_anonymous(caller):
            raise Unauthenticated(
                "This request takes an administrator's credentials, also on the mesh's machine",
                remedy=ADMIN_REMEDY,
            )
        if granted(caller.roles).isdisjoint(self.roles):
            raise _lacking(caller, self.roles, does or self.does)
        if self.all_tenants and not caller.all_tenants:
            require_all_tenants(caller, self.does)

    def check_task(self, caller: Caller, requested_by: str) -> None:
        """Raises what `check` raises for a task of another that takes a further role."""
        if self.others is not None and not is_own(caller, requested_by):
            require(caller, self.others, self.of_others)

    def __str__(self) -> str:
        words = f"Takes the role {' or '.join(self.roles)}"
        if self.others is not None:
            words += f", {self.others} for the tasks of others"
        return f"{words}, of all tenants." if self.all_tenants else f"{words}."


_SEE = (Role.VIEWER, Role.SUBMITTER)
_READ = (Role.CONTENTS, Role.SUBMITTER)
_VIEWER, _SUBMITTER, _OPERATOR, _ADMIN = (Role.VIEWER,), (Role.SUBMITTER,), (Role.OPERATOR,), (Role.ADMIN,)

RULES = {
    "submit": Rule("makes tasks", _SUBMITTER, limit="tasks_per_minute"),
    "see": Rule("sees tasks", _SEE, Role.VIEWER, "sees the tasks of others"),
    "tasks": Rule("lists tasks", _VIEWER),
    "follow": Rule("follows tasks", _SEE, Role.VIEWER, "follows the tasks of others"),
    "task_events": Rule("follows tasks", _SEE, Role.VIEWER, "follows the tasks of others"),
    "transcripts": Rule("sees steps", _READ, Role.CONTENTS, "sees the steps of others' tasks"),
    "export": Rule("exports tasks", _READ, Role.CONTENTS, "exports the tasks of others"),
    "file": Rule("reads files", _READ, Role.CONTENTS, "reads the files of others' tasks"),
    "outcome": Rule("gets outcomes", _READ, Role.CONTENTS, "is sent the outcome of another's task"),
    "cancel": Rule(
        "cancels tasks", (Role.OPERATOR, Role.SUBMITTER), Role.OPERATOR, "cancels the tasks of others"
    ),
    "retry": Rule(
        "retries tasks", (Role.OPERATOR, Role.SUBMITTER), Role.OPERATOR, "retries the tasks of others"
    ),
    "score": Rule(
        "scores tasks", (Role.OPERATOR, Role.SUBMITTER), Role.OPERATOR, "scores the tasks of others"
    ),
    "fork": Rule("forks tasks", _SUBMITTER, Role.CONTENTS, "forks the tasks of others"),
    "retry_all": Rule("retries tasks", _OPERATOR),
    "cancel_all": Rule("cancels tasks", _OPERATOR),
    "answer_all": Rule("answers questions", (Role.APPROVER,)),
    "dead_letters": Rule("lists dead letters", _VIEWER),
    "tree": Rule("sees tasks", _SEE, Role.VIEWER, "sees the tasks of others"),
    "answer": Rule(
        "answers questions", (Role.APPROVER, Role.SUBMITTER), Role.APPROVER, "answers the tasks of others"
    ),
    "reveal": Rule(
        "reads hidden parts of questions",
        (Role.APPROVER, Role.SUBMITTER),
        Role.APPROVER,
        "reads the hidden parts of questions of others' tasks",
    ),
    "inbox": Rule("lists questions", (Role.CONTENTS,)),
    "events": Rule("sees events", _VIEWER),
    "tail": Rule("follows events", _VIEWER),
    "publish": Rule("publishes events", _SUBMITTER),
    "compress": Rule("compresses contexts", _SUBMITTER),
    "models": Rule("lists models", _SUBMITTER),
    "call_model": Rule("calls models", _SUBMITTER, limit="calls_per_minute"),
    "agents": Rule("lists agents", _VIEWER),
    "scores": Rule("sees scores", _VIEWER),
    "costs": Rule("sees costs", _VIEWER),
    "status": Rule("sees the status", _VIEWER),
    "estimate": Rule("estimates tasks", _VIEWER),
    "budgets": Rule("lists budgets", _VIEWER),
    "raise_budget": Rule("raises budgets", _OPERATOR),
    "allowances": Rule("lists allowances", _OPERATOR),
    "allow": Rule("sets allowances", _OPERATOR),
    "disallow": Rule("removes allowances", _OPERATOR),
    "deployments": Rule("lists deployments", _OPERATOR, all_tenants=True),
    "explain_route": Rule("explains routes of models", _OPERATOR, all_tenants=True),
    "test_deployments": Rule("tests deployments", _OPERATOR, all_tenants=True),
    "create_key": Rule("creates keys", _ADMIN),
    "list_keys": Rule("lists keys", _ADMIN),
    "open_keys": Rule("opens the mesh", _ADMIN, all_tenants=True),
    "revoke_key": Rule("revokes keys", _ADMIN),
    "rotate_key": Rule("rotates keys", _ADMIN),
    "erase": Rule("erases contents", _ADMIN),
    "verify": Rule("verifies the event log", _ADMIN, all_tenants=True),
    "rotate_secrets": Rule("rotates keys", _ADMIN, all_tenants=True),
}
"""The rules of operations, by their names."""


def has_role(caller: Caller, role: Role) -> bool:
    """Whether a caller has a role, or one that implies it."""
    return role in granted(caller.roles)


def require(caller: Caller, role: Role, what: str) -> None:
    """Raises Unauthenticated for an anonymous caller without the role, Forbidden for any other without it.

    `what` ends the sentence `Only a caller with the role ... `, like `pauses schedules`.
    """
    if not has_role(caller, role):
        raise _lacking(caller, (role,), what)


def _lacking(caller: Caller, roles: tuple[Role, ...], what: str) -> MeshError:
    wanted, held = " or ".join(roles), in_order(granted(caller.roles))
    error: type[MeshError] = Unauthenticated if _is_anonymous(caller) else Forbidden
    key = f"Use a key that has it: mesh keys create --role {roles[0]}"
    return error(
        f"Only a caller with the role {wanted} {what}; {caller.requested_by} has {held}",
        remedy="Add the role to the client in mqtt.clients" if caller.source == "mqtt" else key,
    )


def check_answer(caller: Caller, view: TaskView, key: str) -> None:
    """Raises Forbidden for a submitter who is no approver, but where a task's question is for it.

    It is if it names the caller, or where the caller made the task and no approval is asked for.
    """
    wait = next((wait for wait in view.waits if wait.wait_id == key), None)
    if has_role(caller, Role.APPROVER) or (wait is not None and caller.requested_by in wait.may_answer):
        return
    if wait is not None and is_decision(wait):
        require(caller, Role.APPROVER, "decides on approvals")
    RULES["answer"].check_task(caller, view.requested_by)


def require_all_tenants(caller: Caller, what: str) -> None:
    """Raises Forbidden for a caller of one tenant alone."""
    if not caller.all_tenants:
        raise Forbidden(
            f"Only a caller of all tenants {what}; {caller.requested_by} is of tenant {caller.tenant_id}",
            remedy="Use the admin token, or `mesh` on the mesh's machine",
        )


def _is_anonymous(caller: Caller) -> bool:
    """Whether a caller has shown nothing that says who it is."""
    return caller.key_id is None and caller.requested_by == Caller().requested_by


def is_own(caller: Caller, requested_by: str) -> bool:
    """Whether a submitter has requested something of its tenant itself."""
    return has_role(caller, Role.SUBMITTER) and caller.requested_by == requested_by


def visible_tenant(caller: Caller) -> str | None:
    """Returns the tenant whose costs, budgets and status a caller sees; None is every tenant."""
    return None if caller.all_tenants else caller.tenant_id


def tenant_of(caller: Caller, named: str | None) -> str | None:
    """Returns the tenant that a caller means: any or none for one of all tenants, else its own."""
    if named not in (None, caller.tenant_id):
        require_all_tenants(caller, "names another tenant")
    return named if caller.all_tenants else caller.tenant_id


def call_context(caller: Caller, *, tenant_id: str | None = None, user: str | None = None) -> CallContext:
    """Returns who pays for a call of a model that may name a tenant and a user.

    Both count for a caller of all tenants alone: any other pays as its credentials say, and may name no other
    tenant (Forbidden).
    """
    if caller.all_tenants:
        tenant_id, user = tenant_id or caller.tenant_id, user or LLM_SERVICE
    elif tenant_id in (None, caller.tenant_id):
        tenant_id, user = caller.tenant_id, caller.requested_by
    else:
        raise Forbidden(
            f"The key is of tenant {caller.tenant_id!r}, and no other may be named",
            remedy="Leave tenant_id out",
            field="tenant_id",
        )
    return CallContext(
        purpose=LLM_SERVICE,
        tenant_id=tenant_id,
        agent_id=user,
        key_id=caller.key_id,
        budgets=caller.budgets,
    )


_ALWAYS = frozenset(["agent_id", "attempt", "fence", "step", "task_id", "tenant_id", "thread_id", "version"])
"""The fields that name what an event is about, in the events of every part."""
_MAX_CHARS = 128
_MAX_ITEMS = 64


def event_facts(event: Event, known: Mapping[str, Set[str]]) -> Event | None:
    """An event without its contents; None for a piece of an answer, which is nothing else.

    `known` has the fields of payloads that are facts, by type of event or `family.*`.
    """
    kind = event.event_type
    if kind == topics.MODEL_DELTA:
        return None
    fields: Mapping[str, Any] = {} if event.topic.startswith(topics.APPLICATION) else event.fields
    names = _ALWAYS | (known.get(kind) or known.get(f"{kind.partition('.')[0]}.*") or frozenset())
    facts = {name: value for name, value in fields.items() if name in names and _is_fact(value)}
    error = fields.get("error")
    if isinstance(error, dict) and isinstance(error.get("type"), str):
        facts["error"] = {"type": error["type"]}
    return replace(event, payload=facts, idempotency_key=None)


def task_facts(view: TaskView) -> TaskView:
    """A task without its payload, its answer, and what was said of its failure or its waits."""
    outcome = view.outcome
    if outcome is not None:
        outcome = replace(outcome, result=None, files=(), error=named(outcome.error))
    return replace(
        view,
        payload={},
        shape=None,
        outcome=outcome,
        attempts=tuple(replace(attempt, error=named(attempt.error)) for attempt in view.attempts),
        waits=tuple(replace(wait, reason="", subject={}, answer_schema=None) for wait in view.waits),
    )


def sees_contents(view: TaskView, caller: Caller) -> bool:
    """Whether a caller may see what a task says and was sent."""
    return has_role(caller, Role.CONTENTS) or is_own(caller, view.requested_by)


def shown(view: TaskView, caller: Caller) -> TaskView:
    """A task as a caller may see it."""
    return view if sees_contents(view, caller) else task_facts(view)


def page_facts(page: TaskPage) -> TaskPage:
    """Tasks without the reasons of their failures and waits."""
    return page.model_copy(
        update={"items": tuple(item.model_copy(update={"reason": None}) for item in page.items)}
    )


def status_facts(status: MeshStatus) -> MeshStatus:
    """A status without the reasons of waits."""
    return status.model_copy(
        update={"waits": tuple(wait.model_copy(update={"reason": ""}) for wait in status.waits)}
    )


def named(error: Fault | None) -> Fault | None:
    """An error without what it said."""
    return None if error is None else Fault(type=error.type, message="")


def _is_fact(value: Any) -> bool:
    """Whether a value is too small and too plain to hold contents."""
    if isinstance(value, dict):
        return len(value) <= _MAX_ITEMS and all(map(_is_scalar, [*value, *value.values()]))
    if isinstance(value, list):
        return len(value) <= _MAX_ITEMS and all(map(_is_scalar, value))
    return _is_scalar(value)


def _is_scalar(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, int | float)
        or (isinstance(value, str) and len(value) <= _MAX_CHARS)
    )
