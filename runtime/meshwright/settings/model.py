"""The settings without a table, and the class that joins them with the tables of the parts."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from meshwright.core.errors import ConfigError
from meshwright.core.logs import levels_of
from meshwright.parts import of_packages, ours
from meshwright.settings.forms import Secret, Table

if TYPE_CHECKING:
    from meshwright.agents.settings import AgentsSettings, PromptsSettings
    from meshwright.context.settings import ContextSettings
    from meshwright.edges.channels.settings import ChannelsSettings
    from meshwright.edges.http.settings import HttpSettings, WatchdogSettings
    from meshwright.edges.mqtt.settings import MqttSettings
    from meshwright.edges.webhooks.settings import WebhooksSettings
    from meshwright.events.settings import AuditSettings, PeopleSettings, TracingSettings
    from meshwright.identity.settings import KeysSettings, OidcSettings, SecretsSettings
    from meshwright.k8s.settings import K8sSettings
    from meshwright.ledger.settings import LedgerSettings
    from meshwright.mcp.settings import McpSettings
    from meshwright.models.settings import ModelsSettings
    from meshwright.orchestration.settings import (
        OrchestrationSettings,
        PresenceSettings,
        TenantsSettings,
    )
    from meshwright.sandbox.settings import SandboxSettings
    from meshwright.services.agent_config.settings import AgentConfigSettings
    from meshwright.services.evaluations.settings import EvaluationsSettings
    from meshwright.services.experiments.settings import ExperimentsSettings
    from meshwright.services.figures.settings import FiguresSettings
    from meshwright.services.llmops.settings import LlmopsSettings
    from meshwright.services.maintenance.settings import MaintenanceSettings
    from meshwright.services.memories.settings import MemoriesSettings
    from meshwright.services.page.settings import PageSettings
    from meshwright.services.retention.settings import RetentionSettings
    from meshwright.services.schedules.settings import SchedulesSettings
    from meshwright.services.sinks.settings import SinksSettings
    from meshwright.stack.settings import DaprSettings
    from meshwright.tools.settings import ApprovalsSettings, ToolsSettings
    from meshwright.toolsets.settings import KubeTables
    from meshwright.trees.settings import TreesSettings

_RECORD_PAYLOADS = 4  # a task's record holds its payload, its result, and the results of its attempts


class Settings(BaseModel):
    """The settings of a mesh. Made by `load_settings`; immutable; secrets print as stars.

    Each part has a table: `settings.http.port`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_dir: Path = Path(".mesh")
    """Folder of the database."""
    store: str = "sqlite"
    """`sqlite`, `memory` (nothing is kept), `dapr`, or that of a package."""
    database: Secret | None = None
    """PostgreSQL that workers share, as `postgresql://user@host:5432/name`: the store, or on `dapr` only log,
    lists and memories."""
    durability: Literal["full", "normal"] = "full"
    """`full`: accepted tasks survive a power cut; `normal`: only kill -9, but commits are faster."""
    writer: Literal["auto", "thread", "process"] = "auto"
    """Writer of SQLite: a `process` of its own (50 MB) or a `thread`; `auto`: a process on two cores."""
    log_level: str = ""
    """A level, or LOGGER=LEVEL, separated by commas."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """`text` or `json`; `auto` is JSON where stderr is no terminal."""
    accept_loss: bool = False
    """Start, once, on a store that has lost commits."""
    drain_seconds: float = Field(default=10.0, ge=0, le=86_400)
    """Seconds that running work has at a stop; the rest resumes later."""
    keep_events_days: float | None = Field(default=None, gt=0)
    """Days that events are kept. Unset: for ever."""
    keep_contents_days: float | None = Field(default=None, gt=0)
    """Days that contents of ended tasks are kept. Unset: as long as their events."""
    max_payload_bytes: int = Field(default=262_144, ge=1_024, le=64 * 1024 * 1024)
    """Largest request body."""
    max_payload_depth: int = Field(default=32, ge=2, le=100)
    """Deepest JSON of a request."""
    max_record_bytes: int = Field(default=4 * 1024 * 1024, ge=256 * 1024, le=256 * 1024 * 1024)
    """Largest record, at least four times `max_payload_bytes`; an outcome may have half."""

    if TYPE_CHECKING:  # the tables of `meshwright.parts`, joined by `built_in`
        http: HttpSettings
        watchdog: WatchdogSettings
        secrets: SecretsSettings
        oidc: OidcSettings
        dapr: DaprSettings
        tools: ToolsSettings
        sandbox: SandboxSettings
        tenants: TenantsSettings
        presence: PresenceSettings
        approvals: ApprovalsSettings
        audit: AuditSettings
        tracing: TracingSettings
        prompts: PromptsSettings
        ledger: LedgerSettings
        keys: KeysSettings
        agent_config: AgentConfigSettings
        llmops: LlmopsSettings
        evaluations: EvaluationsSettings
        page: PageSettings
        experiments: ExperimentsSettings
        kube: KubeTables
        models: ModelsSettings
        context: ContextSettings
        mcp: McpSettings
        agents: AgentsSettings
        people: PeopleSettings
        figures: FiguresSettings
        orchestration: OrchestrationSettings
        mqtt: MqttSettings
        schedules: SchedulesSettings
        memories: MemoriesSettings
        maintenance: MaintenanceSettings
        retention: RetentionSettings
        sinks: SinksSettings
        webhooks: WebhooksSettings
        channels: ChannelsSettings
        trees: TreesSettings
        k8s: K8sSettings

    _unread: tuple[ConfigError, ...] = ()

    @property
    def unread_secrets(self) -> tuple[ConfigError, ...]:
        """The errors of secrets that could not be read, each raised where its secret is used."""
        return self._unread

    def set_unread(self, errors: Iterable[ConfigError]) -> None:
        """Keep the errors of secrets that could not be read."""
        self._unread = tuple(errors)

    def require_secrets(self) -> None:
        """Raises ConfigError for the first secret that could not be read."""
        for error in self._unread:
            raise error

    def without_unread(self) -> Self:
        """A copy with the defaults of each table that holds a secret that could not be read.

        Raises ConfigError where there is no such default, or it would be another database.
        """
        defaults: dict[str, Any] = {}
        for error in self._unread:
            field = type(self).model_fields[error.field]
            if field.is_required() or error.field == "database":
                raise error
            defaults[error.field] = field.get_default(call_default_factory=True)
        return self.model_copy(update=defaults)

    def having(self, **values: Any) -> Self:
        """A copy with some values: of settings without a table, or whole fields of one, as `http={...}`."""
        tables = {
            name: getattr(self, name).model_copy(update=value) if isinstance(value, dict) else value
            for name, value in values.items()
        }
        return self.model_copy(update=tables)

    @field_validator("log_level")
    @classmethod
    def _is_level(cls, text: str) -> str:
        levels_of(text)
        return text

    @model_validator(mode="after")
    def _tables_fit(self) -> Self:
        for name in type(self).model_fields:
            if isinstance(table := getattr(self, name), Table):
                table.check_others(self)
        return self

    @model_validator(mode="after")
    def _records_hold_payloads(self) -> Self:
        if self.max_record_bytes < _RECORD_PAYLOADS * self.max_payload_bytes:
            raise ValueError(
                f"max_record_bytes must be at least {_RECORD_PAYLOADS} times max_payload_bytes: "
                f"{_RECORD_PAYLOADS * self.max_payload_bytes}"
            )
        return self


@lru_cache(maxsize=1)
def built_in() -> type[Settings]:
    """The settings with the tables of the built-in parts."""
    tables: dict[str, Any] = {}
    for part in ours():
        if part.settings:
            kind = part.load(part.settings)
            tables[part.name] = (kind, kind() if isinstance(kind, type) else {})
    return create_model("Settings", __base__=Settings, __module__="meshwright.settings", **tables)


def with_installed() -> type[Settings]:
    """The settings with the tables of installed parts too. Raises ConfigError."""
    kind = built_in()
    tables: dict[str, Any] = {}
    for part in of_packages():
        table = part.load(part.settings) if part.settings else None
        if table is None:
            continue
        if part.name in kind.model_fields:
            raise ConfigError(
                f"The part in {part.module} has the name {part.name!r}, which is taken",
                remedy="Uninstall its package, or have its author choose another name",
            )
        if not (isinstance(table, type) and issubclass(table, BaseModel)):
            raise ConfigError(f"The settings of the part {part.name} in {part.module} are no pydantic model")
        tables[part.name] = (_strict(table), ...)
    return create_model("Settings", __base__=kind, **tables) if tables else kind


def _strict(table: type[BaseModel]) -> type[BaseModel]:
    """A model that refuses names that it does not know, but for one that declares what it does with them."""
    if "extra" in table.model_config:
        return table
    strict = {
        "model_config": ConfigDict(extra="forbid"),
        "__module__": table.__module__,
        "__doc__": table.__doc__,
    }
    return type(table.__name__, (table,), strict)
