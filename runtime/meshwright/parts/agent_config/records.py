"""Configurations of agents: as callers send them and are shown them, and as the table `agents` has them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

import msgspec
from pydantic import AfterValidator, BaseModel, Field, SecretStr

from meshwright import Event
from meshwright.component import Caller
from meshwright.core.http_calls import is_metadata
from meshwright.kit import (
    ChangeBody,
    ConfigError,
    Conflict,
    Identifier,
    NotFound,
    Overloaded,
    Session,
    Struct,
    marks,
)
from meshwright.models.providers import PROVIDERS, find_provider

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


_SEED = AgentRow(
    tenant_id=Caller().tenant_id,
    agent_id="default-agent",
    name="Default agent",
    description="For every agent without a configuration of its own.",
    llm_provider="ollama",
    llm_endpoint="http://localhost:11434",
    llm_model="mistral:7b-instruct",
    llm_api_key_encrypted=None,
    llm_timeout=30.0,
    llm_temperature=0.7,
    llm_max_tokens=None,
    is_default=True,
    is_active=False,
    created_at=0.0,
    updated_at=None,
)
"""The row that the migration writes."""


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


def remove(session: Session, row: AgentRow, now: float) -> None:
    """Delete a row. If its tenant then lacks a default, that of the migration comes back.

    A row of the same agent that counts is left as it is.
    """
    delete(session, row.tenant_id, row.agent_id)
    if not row.is_default or row.tenant_id != _SEED.tenant_id:
        return
    values = (_SEED.tenant_id, _SEED.agent_id)
    existing = session.execute(f"{_SELECT} {_WHERE}", values).fetchone()
    if existing is None:
        _write(session, _SEED.model_copy(update={"created_at": now}))
    elif not _row(existing).is_active:
        session.execute(f"UPDATE agents SET is_default = 1 {_WHERE}", values)  # noqa: S608 code


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


_MAX_SECONDS, _MAX_TOKENS = 3_600, 10_000_000
_REFERENCE = "os.environ/"
"""How LiteLLM refers to a variable of the environment. No configuration may read the mesh's."""


def _endpoint(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable() or " " in url:
        raise ValueError("expected an http:// or https:// URL, like http://localhost:11434")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL must not hold credentials: put the key into llm_api_key")
    if parts.query or parts.fragment:
        raise ValueError("the URL must have no query and no fragment")
    if is_metadata(_usual(parts.hostname)):
        raise ValueError("link-local addresses are those of a cloud's metadata service, never of a model")
    return url.rstrip("/")


def _usual(host: str) -> str:
    """A host in its usual form: `2852039166` and `0xa9fea9fe` are addresses too."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:  # a name, or IPv6
        return host


def _provider(name: str) -> str:
    try:
        find_provider(f"{name}/model")
    except ConfigError:
        names = ", ".join(provider.name for provider in PROVIDERS)
        raise ValueError(f"there is no provider {name!r}: known are ollama, {names}, and LiteLLM's") from None
    return name


def _plain(text: str) -> str:
    if text.startswith(_REFERENCE):
        raise ValueError("it must not refer to a variable of the mesh's environment")
    return text


def _key(secret: SecretStr) -> SecretStr:
    text = _plain(secret.get_secret_value())
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("a key is printable ASCII without spaces")
    return secret


Provider = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$"), AfterValidator(_provider)]
Endpoint = Annotated[str, Field(min_length=1, max_length=2_048), AfterValidator(_endpoint)]
ModelName = Annotated[str, Field(pattern=r"^[!-~]{1,256}$"), AfterValidator(_plain)]
ApiKey = Annotated[SecretStr, Field(min_length=1, max_length=8_192), AfterValidator(_key)]
Timeout = Annotated[float, Field(gt=0, le=_MAX_SECONDS, description="Seconds that one attempt may take.")]
Temperature = Annotated[float, Field(ge=0, le=2)]
MaxTokens = Annotated[int, Field(ge=1, le=_MAX_TOKENS)]
Name = Annotated[str, Field(max_length=200)]
Description = Annotated[str, Field(max_length=2_000)]


class AgentConfigUpdate(ChangeBody):
    """The fields to change: one that is left out stays. `null` clears endpoint, key and limit.

    If provider or address change, a stored key must be sent again, or cleared. A whole answer may be sent
    back: fields that only answers have are ignored, and `agent_id` must be that of the path.
    """

    facts: ClassVar = frozenset({"has_api_key", "created_at", "updated_at", "problem"})
    agent_id: Identifier = ""
    name: Name = ""
    description: Description = ""
    llm_provider: Provider = ""
    llm_endpoint: Endpoint | None = None
    llm_model: ModelName = ""
    llm_api_key: ApiKey | None = None
    llm_timeout: Timeout = 30.0
    llm_temperature: Temperature = 0.7
    llm_max_tokens: MaxTokens | None = None
    is_default: bool = False
    is_active: bool = True

    def changes(self) -> dict[str, Any]:
        """The fields that were sent."""
        return {name: getattr(self, name) for name in self.model_fields_set - {"agent_id"}}


class AgentConfigRequest(AgentConfigUpdate):
    """A new configuration. `is_default` makes it the tenant's default in place of another."""

    agent_id: Identifier
    llm_provider: Provider
    llm_model: ModelName


class AgentConfig(BaseModel):
    """A configuration without its key; `has_api_key` says whether there is one.

    `problem` says why this process cannot call the model; only a change looks for one.
    """

    agent_id: str
    name: str
    description: str
    llm_provider: str
    llm_endpoint: str | None
    llm_model: str
    has_api_key: bool
    llm_timeout: float
    llm_temperature: float
    llm_max_tokens: int | None
    is_default: bool
    is_active: bool
    created_at: datetime
    updated_at: datetime | None
    problem: str | None = None

    @classmethod
    def from_row(cls, row: AgentRow, problem: str | None = None) -> AgentConfig:
        """A row without its secret."""
        fields = {name: getattr(row, name) for name in cls.model_fields if hasattr(row, name)}
        return cls.model_validate(
            {**fields, "has_api_key": row.llm_api_key_encrypted is not None, "problem": problem}
        )


class AgentConfigList(BaseModel):
    """A tenant's configurations by the ids of their agents."""

    items: list[AgentConfig]


Source = Literal["agent", "default", "environment", "built-in"]


class AgentLLM(BaseModel):
    """Provider, address, model and key of an agent, for a backend that calls the model itself.

    `source` is the agent's own configuration, or the one that stands in for it.
    """

    agent_id: str
    llm_provider: str
    llm_endpoint: str | None = None
    llm_model: str
    llm_api_key: str | None = Field(default=None, repr=False)
    llm_timeout: float = 30.0
    llm_temperature: float = 0.7
    llm_max_tokens: int | None = None
    is_active: bool = True
    source: Source = "agent"
