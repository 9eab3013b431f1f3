"""The settings without a table, and the class that joins them with the tables of the parts."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from meshwright.core.errors import ConfigError
from meshwright.core.logs import parse_levels
from meshwright.core.parts import installed_parts, ours
from meshwright.core.settings.forms import Secret, Table

_TableT = TypeVar("_TableT", bound=BaseModel)
_RECORD_PAYLOADS = 4  # a task's record holds its payload, its result, and the results of its attempts


class Settings(BaseModel):
    """The settings of a mesh. Made by `load_settings`; immutable; secrets print as stars.

    Each part has a table: `settings[HttpSettings].port`, or `settings.http.port`.
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
    """Writer of SQLite: a `process` of its own (50 MB) or a `thread`; `auto`: on two cores, a process after
    500 commits."""
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

    def __getitem__(self, table: type[_TableT]) -> _TableT:
        """The table of a part, by its class. Raises KeyError for a table that no part has."""
        return getattr(self, _names_by_class(type(self))[table])

    def table(self, name: str) -> Any:
        """The table of a part, by its name: `[mcp]` consists of tables. Raises AttributeError."""
        return getattr(self, name)

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
        parse_levels(text)
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


@lru_cache(maxsize=8)
def _names_by_class(kind: type[Settings]) -> dict[type, str]:
    """The names of tables by their classes, and by those that a stricter one is made of."""
    names: dict[type, str] = {}
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names |= dict.fromkeys(field.annotation.__mro__, name)
    return names


@lru_cache(maxsize=1)
def built_in() -> type[Settings]:
    """The settings with the tables of the built-in parts."""
    tables: dict[str, Any] = {}
    for part in ours():
        if part.settings:
            kind = part.load(part.settings)
            tables[part.name] = (kind, kind() if isinstance(kind, type) else {})
    return create_model("Settings", __base__=Settings, __module__="meshwright.core.settings", **tables)


def with_installed() -> type[Settings]:
    """The settings with the tables of installed parts too. Raises ConfigError."""
    kind = built_in()
    tables: dict[str, Any] = {}
    for part in installed_parts():
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
