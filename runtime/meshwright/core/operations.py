"""Operations, declared once: the rule, the route, the request and the documentation stand at the method.

    class Administration(Acting):
        @operation(
            Rule("rotates keys", (Role.ADMIN,)), "POST /keys/{key_id}/rotate", "Rotate a key", status=201
        )
        async def rotate_key(self, key_id: Identifier, *, grace: str = "1h") -> NewKey:

The method checks the rule before it runs. The HTTP route, its request and its description follow from the
declaration and from the signature: parameters that the path names are in the path, others in the body of a
POST, PUT or PATCH and in the query of other methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import wraps
from inspect import isfunction, signature
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

from meshwright.core.access import Role, granted, in_order
from meshwright.core.errors import Forbidden, MeshError, Unauthenticated
from meshwright.core.messages import Caller

ADMIN_REMEDY = (
    "Use `mesh keys` on the mesh's machine, or send Authorization: Bearer with the text of admin.token "
    "in its data folder"
)
NO_STORE = {"Cache-Control": "no-store"}
"""Headers of an answer that no cache keeps."""
MethodT = TypeVar("MethodT", bound=Callable[..., Any])
Limit = Annotated[int, Field(ge=1, le=500)]
"""How many items a page may have."""


class Input(BaseModel):
    """Base of bodies and queries: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class Rule(NamedTuple):
    """Says who may use an operation: a caller with one of `roles`.

    For the role admin the caller must have shown credentials, wherever it is.
    """

    does: str
    """The end of the sentence `Only a caller with the role ... `, like `pauses schedules`."""
    roles: tuple[Role, ...]
    """The roles, of which a caller needs one."""
    others: Role | None = None
    """The role that a task takes which another caller has requested. None: no further role."""
    of_others: str = ""
    """The end of the same sentence for such tasks."""
    all_tenants: bool = False
    """Whether it takes a caller of all tenants."""
    limit: Literal["tasks_per_minute", "calls_per_minute"] | None = None
    """The limit of a caller that its uses count against. None: they are not counted."""

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


@dataclass(eq=False)
class OperationSpec:
    """Declares an operation: a method of an object with a `caller`, or one with a parameter `caller`."""

    rule: Rule
    """The rule that is checked before the method runs."""
    route: str = ""
    """Verb and path, like `POST /keys/{key_id}/rotate`. Fields behind a `?`, as in `POST /drain?wait`, are
    in the query. "": the route is written by hand."""
    summary: str = ""
    """The summary in the document of the API."""
    _: KW_ONLY
    name: str = ""
    """The name from which the document makes its id. "": the name of the method."""
    tag: str = ""
    """The tag below which the document lists it. "": the tag of the router."""
    status: int = 200
    """The status of the answer."""
    response: str = "Successful Response"
    """The description of the answer."""
    created: str = ""
    """The description of status 201. With it the method returns an answer and whether that is new."""
    text: str = ""
    """The content type of an answer that is text. "": the answer is JSON."""
    errors: Mapping[int, str] = field(default_factory=dict)
    """Descriptions of the problems that it answers with, by status."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Formats of headers of the answer, like `/keys/{0.id}`."""
    request: str | type[BaseModel] = ""
    """The model of the body or the query, if the signature does not have all of it: the method gets its
    fields, without those that are excluded. A text is the name of the model that follows from the
    signature."""
    about: str = ""
    """The description of a model that follows from the signature."""
    method: Callable[..., Any] = field(init=False)
    """The method without the check of the rule."""
    takes_caller: bool = field(init=False)
    """Whether the method takes the caller as a parameter, and so is one of a part of the mesh."""

    @property
    def target(self) -> tuple[str, str, str]:
        """The verb, the path and the names of fields in the query of the route."""
        verb, _, address = self.route.partition(" ")
        path, _, query = address.partition("?")
        return verb, path, query

    def __call__(self, method: MethodT) -> MethodT:
        """Declares a method: it checks the rule before it runs."""
        names, rule = list(signature(method).parameters), self.rule
        self.method, self.name, self.takes_caller = method, self.name or method.__name__, "caller" in names
        position = names.index("caller") - 1 if self.takes_caller else None

        @wraps(method)
        def check_first(target: Any, /, *args: Any, **fields: Any) -> Any:
            if position is None:
                caller = target.caller
            else:
                caller = fields["caller"] if "caller" in fields else args[position]
            rule.check(caller)
            return method(target, *args, **fields)

        check_first.operation = self  # type: ignore[attr-defined]
        return cast(MethodT, check_first)


operation = OperationSpec


def get_operation(method: Callable[..., Any]) -> OperationSpec:
    """Returns the declaration of a method."""
    return cast(Any, method).operation


def get_operations(kind: type) -> dict[str, OperationSpec]:
    """Returns the declared operations of a class and its bases by the names of their methods."""
    methods = {name: method for base in reversed(kind.__mro__) for name, method in vars(base).items()}
    return {
        name: get_operation(method)
        for name, method in methods.items()
        if isfunction(method) and hasattr(method, "operation")
    }


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
    any_role, granted_roles = " or ".join(roles), in_order(granted(caller.roles))
    error: type[MeshError] = Unauthenticated if _is_anonymous(caller) else Forbidden
    key = f"Use a key that has it: mesh keys create --role {roles[0]}"
    return error(
        f"Only a caller with the role {any_role} {what}; {caller.requested_by} has {granted_roles}",
        remedy="Add the role to the client in mqtt.clients" if caller.source == "mqtt" else key,
    )


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


def resolve_tenant(caller: Caller, tenant_id: str | None) -> str | None:
    """Returns the tenant that a caller means: any or none for one of all tenants, else its own."""
    if tenant_id not in (None, caller.tenant_id):
        require_all_tenants(caller, "names another tenant")
    return tenant_id if caller.all_tenants else caller.tenant_id
