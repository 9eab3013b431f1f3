"""The table `agents`: statements that SQLite and PostgreSQL both take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from meshwright.core.encoding import Struct
from meshwright.core.errors import Conflict, NotFound, Overloaded
from meshwright.core.messages import Event
from meshwright.sql.database import Session, marks

DEFAULT = "default"
"""The id that stands for the tenant's default agent, whatever that is called."""


class AgentRow(Struct):
    """A row of the table `agents`; the mesh's cipher has encrypted `llm_api_key_encrypted`.

    `updated_at` is None until the first change of the seeded row.
    """

    tenant_id: str
    agent_id: str
    name: str
    description: str
    llm_provider: str
    llm_endpoint: str | None
    llm_model: str
    llm_api_key_encrypted: str | None
    llm_timeout: float
    llm_temperature: float
    llm_max_tokens: int | None
    is_default: bool
    is_active: bool
    created_at: float
    updated_at: float | None

    @property
    def model(self) -> str:
        """LiteLLM's full name of its model."""
        return f"{self.llm_provider}/{self.llm_model}"


class AgentRows(Struct):
    """All configurations of a mesh."""

    rows: tuple[AgentRow, ...] = ()

    def index(self) -> dict[tuple[str, str], AgentRow]:
        """The rows by tenant and agent; those that are defaults also by `default`."""
        by_agent = {(row.tenant_id, row.agent_id): row for row in self.rows}
        return by_agent | {(row.tenant_id, DEFAULT): row for row in self.rows if row.is_default}


_COLUMNS = tuple(field.name for field in msgspec.structs.fields(AgentRow))
_FLAGS = ("is_default", "is_active")
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM agents"  # noqa: S608 names in code
_ORDER = "ORDER BY tenant_id, agent_id"
_INSERT = f"INSERT INTO agents ({', '.join(_COLUMNS)}) VALUES ({marks(len(_COLUMNS))})"  # noqa: S608
_WHERE = "WHERE tenant_id = ? AND agent_id = ?"


def read_all(session: Session) -> AgentRows:
    """Every tenant's rows."""
    rows = session.execute(f"{_SELECT} {_ORDER}").fetchall()
    return AgentRows(rows=tuple(map(_row, rows)))


def find(session: Session, tenant_id: str, agent_id: str) -> AgentRow:
    """The row of an agent, or of the tenant's default. Raises NotFound."""
    where, values = _WHERE, (tenant_id, agent_id)
    if agent_id == DEFAULT:
        where, values = "WHERE tenant_id = ? AND is_default = 1", (tenant_id,)
    row = session.execute(f"{_SELECT} {where}", values).fetchone()
    if row is None:
        raise _missing(agent_id)
    return _row(row)


def insert(session: Session, row: AgentRow, most: int) -> None:
    """Add a row. Raises Conflict if the agent has one, Overloaded if the tenant has `most`."""
    counted = "SELECT COUNT(*), COALESCE(SUM(CASE WHEN agent_id = ? THEN 1 ELSE 0 END), 0) FROM agents"
    values = (row.agent_id, row.tenant_id)
    [count, same] = session.execute(f"{counted} WHERE tenant_id = ?", values).fetchone()
    if same:
        raise Conflict(
            f"Agent {row.agent_id!r} has a configuration already",
            remedy=f"Change it with PUT /api/agents/{row.agent_id}",
            field="agent_id",
        )
    if count >= most:
        raise Overloaded(
            f"The tenant has {count} configurations, and may have {most}",
            remedy="Delete some, or raise max_agents in [agent_config]",
        )
    _write(session, row)


def replace(session: Session, before: AgentRow, row: AgentRow) -> None:
    """Replace a row. Raises Conflict if it is no longer as it was `before`."""
    statement = f"DELETE FROM agents {_WHERE} AND COALESCE(updated_at, 0) = ?"  # noqa: S608 names in code
    values = (row.tenant_id, row.agent_id, before.updated_at or 0.0)
    if session.execute(statement, values).rowcount != 1:
        raise Conflict(
            f"The configuration of {row.agent_id!r} has just been changed by another caller",
            remedy="Read it again",
        )
    _write(session, row)


def delete(session: Session, tenant_id: str, agent_id: str) -> None:
    """Delete a row."""
    session.execute(f"DELETE FROM agents {_WHERE}", (tenant_id, agent_id))  # noqa: S608 code


def write_with(
    session: Session, event: Event, write: Callable[..., None], *args: Any
) -> tuple[None, list[Event]]:
    """Make a change by a function of this module, and log the event that tells of it."""
    write(session, *args)
    return None, [event]


def _write(session: Session, row: AgentRow) -> None:
    if row.is_default:
        session.execute("UPDATE agents SET is_default = 0 WHERE tenant_id = ?", (row.tenant_id,))
    values: list[Any] = [getattr(row, name) for name in _COLUMNS]
    session.execute(_INSERT, [int(value) if type(value) is bool else value for value in values])


def _row(values: Any) -> AgentRow:
    fields: dict[str, Any] = dict(zip(_COLUMNS, values, strict=True))
    for name in _FLAGS:
        fields[name] = bool(fields[name])
    return AgentRow(**fields)


def _missing(agent_id: str) -> NotFound:
    if agent_id == DEFAULT:
        return NotFound(
            "The tenant has no default agent", remedy="Mark one: is_default = true", field="agent_id"
        )
    return NotFound(
        f"Agent {agent_id!r} has no configuration",
        remedy="`mesh config agents set` makes one, as does POST /api/agents",
        field="agent_id",
    )
