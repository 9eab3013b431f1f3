"""The component: the configurations of a mesh's agents, changed at its fronts and known to each process."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field

from meshwright import Event
from meshwright.component import (
    Actor,
    ActorRef,
    Actors,
    Audit,
    Caller,
    Mesh,
    ModelRequest,
    ModelUnavailable,
    Turn,
    turn,
)
from meshwright.kit import (
    FRONT,
    LLM_SERVICE,
    ActorKind,
    ConfigError,
    HostError,
    Identifier,
    InvalidInput,
    NotFound,
    Role,
    Rule,
    Struct,
    operation,
    topics,
)
from meshwright.models.errors import Unauthorized
from meshwright.models.select import PREFIX, AgentModel, AgentModels
from meshwright.parts.agent_config import records
from meshwright.parts.agent_config.records import (
    DEFAULT,
    AgentConfig,
    AgentConfigList,
    AgentConfigRequest,
    AgentConfigUpdate,
    AgentLLM,
    AgentRow,
    AgentRows,
)
from meshwright.parts.agent_config.settings import AgentConfigSettings

_READER = ActorRef("agent-configs", "mesh")
"""The actor by which workers without a database read the front's table."""
CHANGED, CREATED, DELETED = "agent_config.changed", "agent_config.created", "agent_config.deleted"
_NEWS = "agent_config.shared"
"""Tells workers without a database that a front has shared its rows with them. No log has it."""
SEE = Rule("reads agent configurations", (Role.VIEWER,))
_CHANGE = Rule("changes agent configurations", (Role.ADMIN,))
_MISSING = {404: "The agent has no configuration."}
_NOT_ADMIN = {403: "Only an administrator of the tenant may."}
_AgentId = Annotated[Identifier, Field(description="`default` is the tenant's default agent.")]
_FETCH_SECONDS = 2.0  # that calls wait for them
_RETRY_SECONDS = 1.0
_logger = logging.getLogger("meshwright.agent_config")


class _SharedRows(Struct):
    """None where they are not shared, as by a front of an earlier release: then a worker calls the front."""

    rows: AgentRows | None = None


class _SharedConfigs(Actor[_SharedRows]):
    """The configurations of the front that workers without a database read; keys stay encrypted."""

    def __init__(self, ref: ActorRef, read_rows: Callable[[], AgentRows]) -> None:
        super().__init__(ref)
        self._read_rows = read_rows

    @turn
    def share(self, turn: Turn, state: _SharedRows) -> None:
        """Let workers read all rows."""
        self.state = state

    @turn
    def rows(self, turn: Turn) -> AgentRows:
        """All rows, as the front knows them now; commits nothing."""
        return self._read_rows()


class AgentConfigs(AgentModels):
    """The configurations of all agents, as this process knows them: changed at fronts, known everywhere.

    They are read at the start, after each event that says that one changed, and again after `ttl_seconds`. A
    process that has the table reads its database, and any other what the front shares of it. The last read
    stays in use while neither answers.
    """

    config: AgentConfigSettings

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.config = mesh, mesh.settings[AgentConfigSettings]
        mesh.provide(self, AgentModels)
        self.on_read: Callable[[Collection[str]], None] = lambda names: None
        """Called after each read with the names of all configured models."""
        self._has_table = mesh.has_log
        self._ttl = timedelta(seconds=self.config.ttl_seconds)
        self._rows: AgentRows | None = None
        self._shared_rows: AgentRows | None = None
        self._again: asyncio.TimerHandle | None = None
        self._index: dict[tuple[str, str], AgentRow] = {}
        self._version = 1
        self._read_version = 0
        self._due_at = mesh.runtime.clock.now()
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._models: dict[str, AgentModel] = {}
        self._unlisten: Callable[[], None] = lambda: None

    # The component

    def actors(self) -> Iterable[Actors]:
        """The reader of the table for other processes, at the front."""
        return [
            Actors(ActorKind.from_class(_SharedConfigs, type=_READER.type, read_rows=self.last_rows), FRONT)
        ]

    async def start(self) -> None:
        """Read them, and again after each change."""
        changes = (CHANGED, CREATED, DELETED)
        kinds = changes if self._has_table else (*changes, _NEWS)
        self._unlisten = self.mesh.runtime.listen(topics.MESH, self._expire, kinds)
        if self._has_table:
            await self._read_early()
        else:  # the front may start later, and calls wait for it
            self._task = asyncio.create_task(self._read_early())

    async def stop(self) -> None:
        """Stop reading."""
        self._unlisten()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._again is not None:
            self._again.cancel()

    def last_rows(self) -> AgentRows:
        """The rows of the last read. Raises HostError before the first."""
        if self._rows is None:
            raise HostError("The agent configurations are not read yet", remedy="Ask again in a moment")
        return self._rows

    # Calls

    def model_for(self, request: ModelRequest) -> AgentModel | None:
        """The model that an agent's configuration sets for a call, by the last read; None if none is active.

        Callers of `/v1` name their model themselves. Raises Unauthorized for a key that this process cannot
        decrypt.
        """
        context = request.context
        if context.purpose == LLM_SERVICE:
            return None
        return self.last_read(context.tenant_id, request.user)

    def last_read(self, tenant_id: str, agent_id: str) -> AgentModel | None:
        """The configured model of an agent, by the last read. Raises Unauthorized."""
        rows = (self._index.get((tenant_id, name)) for name in (agent_id, DEFAULT))
        row = next((row for row in rows if row is not None and row.is_active), None)
        return None if row is None else self._row_model(row)

    def _row_model(self, row: AgentRow) -> AgentModel:
        name = _model_name(row)
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = AgentModel(
                name=name,
                model=row.model,
                endpoint=row.llm_endpoint,
                api_key=self._decrypt_key(row),
                timeout_seconds=row.llm_timeout,
                temperature=row.llm_temperature,
                max_tokens=row.llm_max_tokens,
            )
        return model

    def _decrypt_key(self, row: AgentRow) -> str | None:
        if row.llm_api_key_encrypted is None:
            return None
        try:
            return self.mesh.cipher.decrypt(row.llm_api_key_encrypted)
        except ConfigError:
            raise Unauthorized(
                f"The key in the configuration of agent {row.agent_id!r} cannot be decrypted",
                remedy="Give all processes of the mesh the same secrets.keys, or store the key again",
            ) from None

    # Reading

    async def refresh(self) -> None:
        """Read them again if they may have changed. Raises ModelUnavailable."""
        while not self.is_fresh:
            async with self._reading:
                if not self.is_fresh:
                    await self._read()

    @property
    def is_fresh(self) -> bool:
        """Whether the last read is still valid."""
        return self._read_version == self._version and self.mesh.runtime.clock.now() < self._due_at

    async def _read(self) -> None:
        version, now = self._version, self.mesh.runtime.clock.now()
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                rows = await self._fetch()
        except (HostError, TimeoutError) as error:
            reason = str(error) or "no answer in time"
            if self._rows is None:
                raise ModelUnavailable(f"The agent configurations cannot be read: {reason}") from error
            _logger.warning("agent configurations stay as they were: %s", reason)
            self._read_version, self._due_at = version, now + timedelta(seconds=_RETRY_SECONDS)
            return
        earlier, self._rows = self._rows or AgentRows(), rows
        self._read_version, self._due_at, self._index = version, now + self._ttl, rows.index()
        names = {_model_name(row) for row in rows.rows}
        self._models = {name: model for name, model in self._models.items() if name in names}
        self._warn_unreadable(row for row in rows.rows if row not in earlier.rows)
        self.on_read(names)
        if self.mesh.shares_tables:
            await self._share(rows)

    async def _share(self, rows: AgentRows) -> None:
        """Share the rows, and say so, if they have changed; where that fails they are soon read again."""
        if rows == self._shared_rows:
            return
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                await self.mesh.share(_READER, _SharedRows(rows=rows))
        except (HostError, TimeoutError) as error:
            _logger.warning("agent configurations are not shared yet: %s", error or "no answer in time")
            self._again = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._expire)
            return
        self._shared_rows = rows
        self.mesh.runtime.broadcast(self.mesh.event(_NEWS, {}))

    def _warn_unreadable(self, rows: Iterable[AgentRow]) -> None:
        """Log keys that cannot be decrypted, before a call fails."""
        for row in rows:
            try:
                self._row_model(row)
            except Unauthorized as error:
                _logger.warning("tenant %s: %s; %s", row.tenant_id, error.message, error.remedy)

    async def _fetch(self) -> AgentRows:
        if self._has_table:
            return await self.mesh.database.read(records.read_all)
        state = await self.mesh.runtime.read(_READER, _SharedRows)
        if state is not None and state.rows is not None:
            return state.rows
        return AgentRows.model_validate(await self.mesh.runtime.call(_READER, "rows"))

    def _expire(self, event: Event | None = None) -> None:
        """Read again at once, and before the next call."""
        self._version += 1
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._read_early())

    async def _read_early(self) -> None:
        with suppress(ModelUnavailable):  # the next call tries again
            await self.refresh()

    # Operations of fronts: a change is durable when it returns, and decides the next call in this process

    @operation(SEE, "GET /api/agents", "List agent configurations")
    async def list_configs(self, caller: Caller) -> AgentConfigList:
        """List the tenant's configurations; never a key."""
        rows = await self.mesh.database.read(records.read_all)
        return AgentConfigList(
            items=[AgentConfig.from_row(row) for row in rows.rows if row.tenant_id == caller.tenant_id]
        )

    @operation(SEE, "GET /api/agents/{agent_id}", "Show a configuration", errors=_MISSING)
    async def show_config(self, caller: Caller, agent_id: _AgentId) -> AgentConfig:
        """Show one configuration, without its key."""
        return AgentConfig.from_row(await self._find(caller.tenant_id, agent_id))

    @operation(Rule("reads the keys of models", (Role.ADMIN,)))
    async def show_llm(self, caller: Caller, agent_id: str) -> AgentLLM:
        """Provider, address, model and key of an agent, the key in plain text. Raises NotFound."""
        row = await self._find(caller.tenant_id, agent_id)
        if row.llm_api_key_encrypted is not None:
            await self.mesh.get(Audit).record(caller, "agent_config.key_read", _subject(row))
        fields = {name: getattr(row, name) for name in AgentLLM.model_fields if hasattr(row, name)}
        source = "default" if agent_id == DEFAULT else "agent"
        return AgentLLM(**fields, llm_api_key=self._decrypt_key(row), source=source)

    @operation(
        _CHANGE,
        "POST /api/agents",
        "Configure an agent",
        status=201,
        errors={409: "The agent has a configuration already.", **_NOT_ADMIN},
    )
    async def create_config(self, caller: Caller, request: AgentConfigRequest) -> AgentConfig:
        """Say which model an agent calls. It decides the agent's next call, on every worker."""
        if request.agent_id == DEFAULT:
            raise InvalidInput(
                f"{DEFAULT!r} stands for the tenant's default agent, whatever its id",
                remedy="Choose another agent_id, and set is_default",
                field="agent_id",
            )
        now = self.mesh.runtime.clock.now().timestamp()
        row = AgentRow(
            **self._stored(dict(request)), tenant_id=caller.tenant_id, created_at=now, updated_at=now
        )
        changed = sorted(request.model_fields_set - {"agent_id"})
        async with self.mesh.get(Audit).change(caller, CREATED, _subject(row), {"changed": changed}):
            return await self._write(CREATED, row, changed, records.insert, row, self.config.max_agents)

    @operation(
        _CHANGE,
        "PUT /api/agents/{agent_id}",
        "Change a configuration",
        errors={409: "Another caller has just changed it.", **_MISSING, **_NOT_ADMIN},
    )
    async def change_config(
        self, caller: Caller, agent_id: _AgentId, request: AgentConfigUpdate
    ) -> AgentConfig:
        """Change the fields that are sent. It decides the agent's next call, on every worker."""
        before = await self._find(caller.tenant_id, agent_id)
        if request.agent_id not in ("", agent_id, before.agent_id):
            problem = f"The path names the agent {before.agent_id!r}, the body {request.agent_id!r}"
            raise InvalidInput(problem, remedy="Leave agent_id out: it never changes", field="agent_id")
        changes = self._stored(request.changes())
        if not changes:
            return AgentConfig.from_row(before, self._problem(before))
        if before.updated_at is None:
            changes.setdefault("is_active", True)  # the seeded default counts from its first change on
        changes["updated_at"] = self.mesh.runtime.clock.now().timestamp()
        row = before.model_copy(update=changes)
        moved = (before.llm_provider, _origin(before)) != (row.llm_provider, _origin(row))
        if moved and before.llm_api_key_encrypted is not None and "llm_api_key_encrypted" not in changes:
            raise InvalidInput(
                f"The stored key of {row.agent_id!r} is for another provider or address",
                remedy="Send llm_api_key again with this change, or null to delete it",
                field="llm_api_key",
            )
        changed = sorted(request.changes())
        async with self.mesh.get(Audit).change(caller, CHANGED, _subject(row), {"changed": changed}):
            return await self._write(CHANGED, row, changed, records.replace, before, row)

    @operation(
        _CHANGE, "DELETE /api/agents/{agent_id}", "Delete a configuration", errors=_MISSING | _NOT_ADMIN
    )
    async def delete_config(self, caller: Caller, agent_id: _AgentId) -> AgentConfig:
        """Delete a configuration with its key. The next call is as without one.

        In place of the default of the tenant `default` the one that a mesh begins with comes back, inactive.
        """
        row = await self._find(caller.tenant_id, agent_id)
        now = self.mesh.runtime.clock.now().timestamp()
        async with self.mesh.get(Audit).change(caller, DELETED, _subject(row)):
            return await self._write(DELETED, row, [], records.remove, row, now)

    async def _find(self, tenant_id: str, agent_id: str) -> AgentRow:
        if not self._has_table:
            raise NotFound("This worker has no agent configurations", remedy="Ask the mesh's front")
        return await self.mesh.database.read(records.find, tenant_id, agent_id)

    def _stored(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Fields as the table has them, the key encrypted."""
        if "llm_api_key" in fields:
            key = fields.pop("llm_api_key")
            encrypted = None if key is None else self.mesh.cipher.encrypt(key.get_secret_value())
            fields["llm_api_key_encrypted"] = encrypted
        return fields

    async def _write(
        self, event_type: str, row: AgentRow, changed: Sequence[str], write: Callable[..., None], *args: Any
    ) -> AgentConfig:
        """Make a change with the event that tells of it, which has the configuration without its key."""
        config = AgentConfig.from_row(row)
        payload: dict[str, Any] = {
            "agent_id": row.agent_id,
            "is_default": row.is_default,
            "changed": [*changed],
        }
        if event_type != DELETED:
            payload["config"] = config.model_dump(mode="json", exclude={"problem"})
        event = self.mesh.event(event_type, payload, tenant_id=row.tenant_id, agent_id=row.agent_id)
        await self.mesh.write(records.write_with, event, write, *args)
        self._version += 1
        with suppress(ModelUnavailable):  # the next call tries again
            await self.refresh()
        if event_type != DELETED:
            config.problem = self._problem(row)
        return config

    def _problem(self, row: AgentRow) -> str | None:
        """The reason why this process cannot call a row's model."""
        try:
            self._row_model(row).picker()
        except (ConfigError, Unauthorized) as error:
            return str(error)
        return None


def _model_name(row: AgentRow) -> str:
    """The name of a row's model; it changes with every field that decides a call."""
    decides = (
        *(row.model, row.llm_endpoint, row.llm_api_key_encrypted, row.llm_timeout),
        *(row.llm_temperature, row.llm_max_tokens),
    )
    digest = hashlib.sha256(repr(decides).encode()).hexdigest()[:12]
    return f"{PREFIX}{row.tenant_id}/{row.agent_id}@{digest}"


def _subject(row: AgentRow) -> str:
    return f"agents/{row.agent_id}"


def _origin(row: AgentRow) -> tuple[str, str]:
    parts = urlsplit(row.llm_endpoint or "")
    return parts.scheme, parts.netloc
