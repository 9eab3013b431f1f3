"""Allowances: budgets that are set, changed and removed while the mesh runs, the same on all workers.

One actor keeps them all. A worker looks at it again after a second, and at once when an event says so.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import cast, get_args

from pydantic import BaseModel, ValidationError

from meshwright.core import topics
from meshwright.core.errors import InvalidInput, NotFound, sentence
from meshwright.core.events import Event
from meshwright.core.ids import derived_id
from meshwright.core.money import MAX_DOLLARS, Budget, OnEmpty, is_amount
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work.protocol import DEFAULT_TENANT
from meshwright.money.balance import Window
from meshwright.money.event_types import AllowanceSet

ALLOWANCES = "allowances"
"""The type of the actor that keeps them."""
_REF = ActorRef(ALLOWANCES, "mesh")
SET, REMOVED = "allowance.set", "allowance.removed"
_MAX_ALLOWANCES = 500  # each call goes through all of them
_FRESH = timedelta(seconds=1)  # where no event of another process says that they changed
_SCOPES = ("agent", "tenant", "tag", "mesh")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class _AllowanceList(BaseModel):
    """The state of the actor."""

    items: dict[str, Budget] = {}


class AllowanceKeeper(Actor[_AllowanceList]):
    """All allowances of a mesh, by name."""

    @turn
    def put(self, turn: Turn, budget: Budget) -> None:
        """Set one, in place of the one that has its name. Raises InvalidInput where there are too many."""
        if budget.name not in self.state.items and len(self.state.items) >= _MAX_ALLOWANCES:
            raise InvalidInput(
                f"There are {_MAX_ALLOWANCES} allowances already", remedy="mesh allow --remove ends some"
            )
        self.state.items[budget.name] = budget
        _publish(turn, SET, budget)

    @turn
    def remove(self, turn: Turn, names: list[str]) -> list[Budget]:
        """Remove those that there are, and return them."""
        removed = [self.state.items.pop(name) for name in names if name in self.state.items]
        for budget in removed:
            _publish(turn, REMOVED, budget)
        return removed


class Allowances:
    """The allowances of a mesh."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._known: tuple[Budget, ...] = ()
        self._known_until: datetime | None = None
        runtime.listen(topics.SPEND, self._changed, (SET, REMOVED))

    async def current(self) -> tuple[Budget, ...]:
        """All of them, as they were a second ago or later. Raises HostError."""
        now = self._runtime.clock.now()
        if self._known_until is None or now >= self._known_until:
            state = await self._runtime.read(_REF)
            self._known = tuple(state.items.values()) if isinstance(state, _AllowanceList) else ()
            self._known_until = now + _FRESH
        return self._known

    async def items(self) -> tuple[Budget, ...]:
        """All of them, by name. Raises HostError."""
        self._known_until = None  # people see what they have just set
        return tuple(sorted(await self.current(), key=lambda budget: budget.name))

    async def set(
        self, whose: str, allowance: str, *, tenant_id: str | None = None, on_empty: OnEmpty | None = None
    ) -> Budget:
        """Allow somebody an amount in a window (a day if none is named), like `5/day`; durable on return.

        `whose` is an agent's id, or `agent:ID`, `tenant:ID`, `tag:NAME` or `mesh`; with a `tenant_id` it is
        for calls of that tenant alone. Another of the same window is replaced, and keeps its `on_empty` where
        none is given (`fail` for a new one). Raises InvalidInput.
        """
        limit_usd, window = parse_amount(allowance, field="allowance", default="day")
        scope, of = _parse_scope(whose)
        if scope == "tenant" and tenant_id not in (None, of):
            problem = f"{whose} is an allowance of tenant {of}, and {tenant_id} is another"
            raise InvalidInput(problem, remedy="Leave the tenant out", field="tenant_id")
        name = _budget_name(scope, of, tenant_id, window)
        if on_empty is None:
            before = [budget.on_empty for budget in await self.items() if budget.name == name]
            on_empty = before[0] if before else "fail"
        fields = {"limit_usd": limit_usd, "window": window, "tenant_id": tenant_id, "on_empty": on_empty}
        try:
            budget = Budget.model_validate({"name": name, "scope": scope, "of": of, **fields})
        except ValidationError as error:
            raise invalid_field(error) from None
        if on_empty == "wait" and window == "total":
            problem = "An allowance of window total never renews, so a task would wait for ever"
            raise InvalidInput(problem, remedy="Write it like 5/day, or say ask", field="on_empty")
        await self._runtime.call(_REF, "put", budget)
        self._known_until = None  # now, not when the event arrives
        return budget

    async def remove(self, whose: str, *, tenant_id: str | None = None) -> list[Budget]:
        """End somebody's allowances, of every window; durable when this returns.

        Raises NotFound where there are none.
        """
        scope, of = _parse_scope(whose)
        names = [_budget_name(scope, of, tenant_id, window) for window in get_args(Window)]
        removed = [
            Budget.model_validate(budget) for budget in await self._runtime.call(_REF, "remove", names)
        ]
        self._known_until = None
        if not removed:
            raise NotFound(
                f"{whose} has no allowance", remedy="mesh allow lists those there are", field="whose"
            )
        return removed

    def _changed(self, event: Event) -> None:
        self._known_until = None


def parse_amount(text: str, *, field: str = "budget", default: Window = "total") -> tuple[Decimal, Window]:
    """The dollars and the window of a text like `5.00/day`; without one, the default. Raises InvalidInput."""
    amount, _, window = text.partition("/")
    try:
        limit = Decimal(amount.strip().removeprefix("$"))
    except InvalidOperation:
        limit = Decimal(-1)
    window, windows = window.strip() or default, get_args(Window)
    if window not in windows or not is_amount(limit):
        raise InvalidInput(
            f"{field}: expected dollars from 0 to {MAX_DOLLARS:,} and one of {', '.join(windows)}, "
            f"not {text[:80]!r}",
            remedy="write it like 5.00/day",
            field=field,
        )
    return limit, cast("Window", window)


def invalid_field(error: ValidationError) -> InvalidInput:
    """The error for the first field of an argument that does not fit."""
    [problem, *_] = error.errors()
    field = str(problem["loc"][0])
    return InvalidInput(f"{field} {sentence(problem)}", field=field)


def _parse_scope(whose: str) -> tuple[str, str]:
    scope, separator, of = whose.partition(":")
    if whose == "mesh":
        return "mesh", "mesh"
    if not separator:
        scope, of = "agent", whose
    if scope not in _SCOPES[:3] or not of:
        remedy = "Say an agent's id, agent:ID, tenant:ID, tag:NAME or mesh"
        raise InvalidInput(f"{whose[:80]!r} cannot have an allowance", remedy=remedy, field="whose")
    return scope, of


def _budget_name(scope: str, of: str, tenant_id: str | None, window: str) -> str:
    name = "-".join(filter(None, ("allow", scope, of if scope != "mesh" else None, tenant_id, window)))
    return (
        name if _NAME.fullmatch(name) else f"allow-{derived_id(scope, of, tenant_id or '', window).lower()}"
    )


def _budget_tenant(budget: Budget) -> str:
    return budget.of if budget.scope == "tenant" else budget.tenant_id or DEFAULT_TENANT


def _publish(turn: Turn, event_type: str, budget: Budget) -> None:
    payload = AllowanceSet(**budget.model_dump(mode="json", exclude_none=True))
    turn.publish(topics.SPEND, event_type, payload, tenant_id=_budget_tenant(budget))
