"""Reading the settings of a project: its file, the environment, and what is wrong with either."""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError, create_model
from pydantic_settings import SettingsError

from meshwright.errors import ConfigError
from meshwright.plugins import COMPONENTS, installed
from meshwright.settings.tables import (
    MOVED,
    PREFIX,
    OldEnvironment,
    Settings,
    in_tables,
    merged,
    moved_by,
)
from meshwright.suggestions import nearest

FILE_NAME = "mesh.toml"
_USUAL_NAMES = {
    "PROMPT_DIR": ("prompts", "dir"),
    "LITELLM_BASE_URL": ("models", "base_url"),
    "LITELLM_API_KEY": ("models", "api_key"),
    "MESH_ADMIN_TOKEN": ("keys", "admin_token"),
    "MESH_DAPR_BIN": ("dapr", "bin"),
    "MESH_BROKER_URL": ("dapr", "broker_url"),
    "MESH_REDIS_HOST": ("dapr", "redis_host"),
    "MESH_REDIS_PASSWORD": ("dapr", "redis_password"),
    "MESH_PLACEMENT": ("dapr", "placement"),
    "MESH_SCHEDULER": ("dapr", "scheduler"),
}
"""Variables that other programs use too: LiteLLM, clients of a mesh, the files of `components/`, CI."""
OTHER_VARIABLES = ("url", "debug", "trust", "complete")
"""Variables with our prefix that are no settings."""

Steps = tuple[str | int, ...]
"""The place of a value: its table, its name, and where within it."""

logger = logging.getLogger(__name__)


class _Source(NamedTuple):
    """One place that settings come from, and how it names each that it gives."""

    values: Mapping[str, Any]
    names: Mapping[Steps, str]

    def name_of(self, steps: Steps) -> str | None:
        """How the source names the setting at a place."""
        return next((self.names[steps[:n]] for n in (2, 1) if steps[:n] in self.names), None)


def load_settings(project: Path, **overrides: Any) -> Settings:
    """Read the settings of a project; an override of None counts as not given.

    Raises ConfigError, which names the file and line, or the environment's variable, and what was expected.
    """
    path = project / FILE_NAME
    text = _read(path)
    kind = _settings_type()
    in_file = _file(kind, path, text)
    environment = _environment(kind)
    given = _source({name: value for name, value in overrides.items() if value is not None})
    try:
        written = merged(merged(in_file.values, environment.values), given.values)
        brought = kind.model_fields.keys() - Settings.model_fields.keys()
        return kind(**{name: {} for name in brought} | written)
    except ValidationError as error:
        raise _invalid(kind, error, given, environment, in_file, path, text) from None


def _settings_type() -> type[Settings]:
    """The settings with a table for each installed component that has one. Raises ConfigError."""
    tables: dict[str, Any] = {}
    for plugin in installed(COMPONENTS):
        component = plugin.load()
        table = getattr(component, "settings", None)
        if table is None:
            continue
        if component.name in {*Settings.model_fields, *MOVED, *tables}:
            raise ConfigError(
                f"The component {plugin.value} has the name {component.name!r}, which is taken",
                remedy=f"Uninstall {plugin.package}, or have its author choose another name",
            )
        tables[component.name] = (table, ...)
    return create_model("Settings", __base__=Settings, **tables) if tables else Settings


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", path=str(path)) from error


def _file(kind: type[Settings], path: Path, text: str) -> _Source:
    try:
        written = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise ConfigError(
            f"is not TOML: {error}",
            path=str(path),
            line=int(line[1]) if line else len(text.splitlines()),
            remedy='write settings as lines of the form name = "value"',
        ) from error
    for name, value in written.items():
        line_number = _line_of((name,), text)
        if name in MOVED:
            logger.warning("%s:%s: %s is now %s", path, line_number, name, _written(MOVED[name]))
        elif name not in kind.model_fields:
            raise _unknown(kind, name, is_table=isinstance(value, dict), path=path, line=line_number)
    return _source(written)


def _source(values: Mapping[str, Any]) -> _Source:
    names: dict[Steps, str] = {MOVED.get(name, (name,)): name for name in values}
    return _Source(in_tables(values), names)


def _written(place: Sequence[str]) -> str:
    """How mesh.toml has the setting of a place."""
    return f"{place[1]} of the table [{place[0]}]" if len(place) > 1 else place[0]


def _unknown(kind: type[Settings], name: str, *, is_table: bool, path: Path, line: int | None) -> ConfigError:
    near = nearest(name, [*kind.model_fields, *MOVED], cutoff=0.5)
    if is_table:
        message = f"there is no table [{name}]"
        remedy = f"a component brings its table: install its package, which may be called meshwright-{name}"
        remedy = f"did you mean [{near}]? If not, {remedy}" if near else remedy
    else:
        message = f"there is no setting {name!r}"
        remedy = f"did you mean {near!r}?" if near else f"known are {', '.join(kind.model_fields)}"
    return ConfigError(message, path=str(path), line=line, remedy=remedy, field=name)


def _environment(kind: type[Settings]) -> _Source:
    names: dict[Steps, str] = {}
    usual: dict[str, Any] = {}
    for variable, (table, field) in _USUAL_NAMES.items():
        if value := os.environ.get(variable):
            usual[table] = usual.get(table, {}) | {field: value}
            names[table, field] = variable
    for variable in sorted(os.environ):
        if os.environ[variable] and (old := moved_by(variable)):
            names[MOVED[old]] = PREFIX + old.upper()
            if variable.upper() not in _USUAL_NAMES:
                new = PREFIX + "__".join(MOVED[old]).upper()
                logger.warning("%s is now %s", variable, new + variable[len(PREFIX + old) :])
    try:
        found = OldEnvironment(kind)()
    except SettingsError as error:
        raise _no_json(kind, error) from None
    _warn_of_typos(kind)
    for name, value in found.items():
        for place in [(name, field) for field in value] if isinstance(value, dict) else [(name,)]:
            variable = PREFIX + "__".join(place).upper()
            if variable in os.environ or place not in names:
                names[place] = variable
    return _Source(merged(usual, found), names)


def _no_json(kind: type[Settings], error: SettingsError) -> ConfigError:
    name = next((name for name in (*kind.model_fields, *MOVED) if f'"{name}"' in str(error)), "")
    remedy = "write lists and tables as JSON"
    return ConfigError(f"{PREFIX}{name.upper()} is not JSON", field=name, remedy=remedy)


def _warn_of_typos(kind: type[Settings]) -> None:
    """Warn of each variable that is nearly a setting's: it has no effect."""
    known = [*kind.model_fields, *MOVED]
    for variable in sorted(os.environ):
        name = variable.upper().removeprefix(PREFIX).partition("__")[0].lower()
        if not variable.upper().startswith(PREFIX) or name in (*known, *OTHER_VARIABLES):
            continue
        if near := nearest(name, known, cutoff=0.8):
            new = "__".join(MOVED.get(near, (near,)))
            logger.warning(
                "%s is no setting and has no effect: did you mean %s%s?", variable, PREFIX, new.upper()
            )


def _invalid(
    kind: type[Settings],
    error: ValidationError,
    given: _Source,
    environment: _Source,
    in_file: _Source,
    path: Path,
    text: str,
) -> ConfigError:
    """Say which setting is wrong, from where it came, and what was expected; never what a secret was."""
    first = error.errors(include_url=False)[0]
    steps: Steps = first["loc"]
    field = str(steps[0]) if steps else ""
    expected, remedy = _expected(kind, first)
    if (name := given.name_of(steps)) is not None:
        return ConfigError(_message(name, steps, given, expected), field=field, remedy=remedy)
    if (variable := environment.name_of(steps)) is not None:
        name = _variable(variable, _within(steps, environment))
        return ConfigError(f"{name}: {expected}", field=field, remedy=remedy or "change or unset it")
    name = in_file.name_of(steps)
    line = _line_of(tuple(map(str, (name, *_within(steps, in_file)) if name else steps)), text)
    if line is None:
        return ConfigError(_message(name or field, steps, in_file, expected), field=field, remedy=remedy)
    message = _message(name or field, steps, in_file, expected)
    return ConfigError(message, path=str(path), line=line, field=field, remedy=remedy)


def _expected(kind: type[Settings], first: Any) -> tuple[str, str]:
    """What was expected of a setting, and what may be done."""
    if first["type"] == "missing":
        return "is missing", ""
    if first["type"] == "extra_forbidden":
        table, name = _model_at(kind, first["loc"][:-1]), str(first["loc"][-1])
        near = nearest(name, table.model_fields if table else (), cutoff=0.5)
        return "there is no such setting", f"did you mean {near!r}?" if near else ""
    found = "" if _is_secret(kind, first["loc"], first["input"]) else f", not {str(first['input'])[:80]!r}"
    return first["msg"].removeprefix("Value error, ") + found, ""


def _message(name: str, steps: Steps, source: _Source, expected: str) -> str:
    return f"{name}{_place(_within(steps, source))}: {expected}" if name else expected


def _within(steps: Steps, source: _Source) -> Steps:
    """What follows in a place after the setting that a source names."""
    return next((steps[n:] for n in (2, 1) if steps[:n] in source.names), steps[1:])


def _place(steps: Iterable[int | str]) -> str:
    """A place within a setting: `[0].limit_usd`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


def _variable(name: str, within: Steps) -> str:
    """The environment's variable that gave a place within a setting: one of its own, or the setting's."""
    own = "__".join((name, *(str(step).upper() for step in within)))
    return own if own in {variable.upper() for variable in os.environ} else name + _place(within)


def _model_at(kind: type[BaseModel], steps: Steps) -> type[BaseModel] | None:
    model: type[BaseModel] = kind
    for step in steps:
        field = model.model_fields.get(str(step))
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            return None
        model = field.annotation
    return model


def _is_secret(kind: type[Settings], steps: Steps, value: object) -> bool:
    """Whether a value may not be shown: a whole table, a secret, or an address with a password."""
    if not steps or isinstance(value, Mapping) or "@" in str(value):
        return True
    table = _model_at(kind, steps[:-1])
    field = table.model_fields.get(str(steps[-1])) if table else None
    return field is not None and "Secret" in str(field.annotation)


def _line_of(place: Sequence[str], text: str) -> int | None:
    """The number of the line of TOML that gives the setting of a place, or that begins its table."""
    table: tuple[str, ...] = ()
    begins: int | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\[?([^\]]+)\]", line):
            table = _keys(header[1])
            if table[: len(place)] == tuple(place):
                return number
            if tuple(place[: len(table)]) == table:
                begins = begins or number
        elif key := re.match(r"\s*([^=#]+?)\s*=", line):
            full = (*table, *_keys(key[1]))
            if full[: len(place)] == tuple(place) or tuple(place[: len(full)]) == full:
                return number
    return begins


def _keys(written: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in written.split("."))
