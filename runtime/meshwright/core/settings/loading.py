"""Reads the settings of a project from its file and the environment, and names the place of a mistake."""

from __future__ import annotations

import json
import logging
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError

from meshwright.core.errors import ConfigError, nearest, sentence
from meshwright.core.settings.forms import Table, UnreadableSecret, UnreadSecret
from meshwright.core.settings.model import Settings, built_in, with_installed

FILE_NAME = "mesh.toml"
_PREFIX = "MESH_"
_OTHER_VARIABLES = ("url", "debug", "trust", "complete")
"""Variables with our prefix that are no settings."""

_TABLE = "expected a table"
_MAX_TABLES = 3  # that a question names
_EXPECTED = {
    "dict_type": _TABLE,
    "model_type": _TABLE,
    "tuple_type": "expected a list",
    "string_type": "expected text",
}
"""Words by the type of pydantic's error that a file of settings has of its own."""
_Steps = tuple[str | int, ...]
"""The place of a value: its table, its name, and where within it."""

logger = logging.getLogger(__name__)
WARNED = "MESHWRIGHT_WARNED"
"""The variable of workers that a stack starts: it has warned of the settings that they share."""


class _SettingsSource(NamedTuple):
    """One place that settings come from, and how it names each that it gives."""

    values: Mapping[str, Any]
    names: Mapping[_Steps, str]

    def split(self, steps: _Steps) -> tuple[str | None, _Steps]:
        """How the source names the setting at a place, and what follows within the setting."""
        length = next((n for n in (2, 1) if steps[:n] in self.names), 0)
        return (self.names[steps[:length]], steps[length:]) if length else (None, steps[1:])


def load_settings(project: Path, **overrides: Any) -> Settings:
    """Read the settings of a project; an override of None counts as not given, as does a field of a table.

    Raises ConfigError, which names the file and line, or the environment's variable, and the expectation.
    A secret that cannot be read raises it where it is used, and in `Settings.require_secrets`.
    """
    path = project / FILE_NAME
    text = _read(path)
    kind = with_installed()
    in_file = _file(kind, path, text)
    environment = _environment(kind)
    in_call = _given(overrides)
    values: dict[str, Any] = {name: {} for name in kind.model_fields.keys() - built_in().model_fields.keys()}
    for source in (in_file, environment, in_call):
        _put(values, (), source.values)

    def wrong(steps: _Steps, expected: str, remedy: str = "") -> ConfigError:
        """The error of the setting at a place: how its source names it, and where that is."""
        field = str(steps[0]) if steps else ""
        for source in (in_call, environment):
            name, within = source.split(steps)
            if name is not None:
                name = _variable(name, within) if source is environment else name + _within(within)
                remedy = remedy or ("change or unset it" if source is environment else "")
                return ConfigError(f"{name}: {expected}", field=field, remedy=remedy)
        name, within = in_file.split(steps)
        line = _line_number(tuple(map(str, (name, *within) if name else steps)), text)
        label = f"{name or field}{_within(within)}"
        message = f"{label}: {expected}" if label else expected
        return ConfigError(message, path=str(path) if line else "", line=line, field=field, remedy=remedy)

    unread: list[ConfigError] = []
    while True:
        try:
            settings = kind.model_validate(values, context={"project": project})
        except ValidationError as error:
            problems = error.errors(include_url=False)  # names that are wrong before those that are missing
            first, *others = sorted(problems, key=lambda problem: problem["type"] != "extra_forbidden")
            if not _is_unread(first):
                raise wrong(first["loc"], *_expected(kind, first)) from None
            for problem in filter(_is_unread, (first, *others)):
                unread.append(wrong(problem["loc"], *_expected(kind, problem)))
                values = _with_unread(values, problem, unread[-1])
        else:
            settings.set_unread(unread)
            return settings


def _with_unread(values: Any, problem: Any, error: ConfigError) -> Any:
    """The values with what raises an error in place of a secret. Raises the error where its place is none."""
    try:
        return _replaced(values, problem["loc"], UnreadSecret(problem["input"], error))
    except (LookupError, TypeError, ValueError):  # within a union of a package's own settings
        raise error from None


def _replaced(value: Any, steps: _Steps, secret: UnreadSecret) -> Any:
    """A copy of tables and lists with a secret at a place."""
    if not steps:
        return secret
    step, *within = steps
    copied: Any = list(value) if isinstance(step, int) else dict(value)
    copied[step] = _replaced(value[step], tuple(within), secret)
    return copied


def _is_unread(problem: Any) -> bool:
    return isinstance(problem.get("ctx", {}).get("error"), UnreadableSecret)


def _put(values: dict[str, Any], place: Sequence[str], value: Any) -> None:
    """Set the value of a place within tables; a table is set field by field."""
    if not place:
        for name, field in value.items():
            _put(values, (name,), field)
        return
    name, *within = place
    inner = values.get(name)
    if within or (isinstance(value, Mapping) and isinstance(inner, Mapping)):
        values[name] = dict(inner) if isinstance(inner, Mapping) else {}
        _put(values[name], within, value)
    else:
        values[name] = value


def _given(overrides: Mapping[str, Any]) -> _SettingsSource:
    """The overrides without None, each field of a table by itself."""
    values: dict[str, Any] = {}
    names: dict[_Steps, str] = {}
    for name, value in overrides.items():
        fields = value.items() if isinstance(value, Mapping) else [("", value)]
        for field, item in fields:
            if item is not None:
                place = (name, field) if field else (name,)
                _put(values, place, item)
                names[place] = ".".join(place)
    return _SettingsSource(values, names)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError("is not UTF-8", path=str(path), line=line, remedy="save it as UTF-8") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot be read: {reason}", path=str(path), remedy="make it readable") from error


_TOML_REMEDIES = {
    "twice": "write what is below the second heading below the first",
    "Cannot overwrite a value": "keep one of the lines that set it",
    "Invalid value": "put text in quotes, and write true and false in small letters",
    "Invalid hex value": "put text with backslashes in single quotes",
    "Unescaped '\\'": "put text with backslashes in single quotes",
    "": 'write settings as lines of the form name = "value", below headings like [http]',
}
"""The remedy of an error, by a part of its text; the first that is there."""


def _file(kind: type[Settings], path: Path, text: str) -> _SettingsSource:
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        line = re.search(r"at line (\d+)", str(error))
        raise ConfigError(
            f"is not TOML: {error}",
            path=str(path),
            line=int(line[1]) if line else len(text.splitlines()),
            remedy=next(remedy for reason, remedy in _TOML_REMEDIES.items() if reason in str(error)),
        ) from error
    for name, value in document.items():
        if name not in kind.model_fields:
            message, remedy = _unknown(kind, name, is_table=isinstance(value, dict))
            line_number = _line_number((name,), text)
            raise ConfigError(message, path=str(path), line=line_number, remedy=remedy, field=name)
    return _SettingsSource(document, {(name,): name for name in document})


def _unknown(kind: type[Settings], name: str, *, is_table: bool) -> tuple[str, str]:
    """The error of a name that is no setting, and the setting that was probably meant."""
    near = nearest(name, kind.model_fields, cutoff=0.5)
    if is_table:
        remedy = f"a component brings its table: install its package, which may be called meshwright-{name}"
        return f"there is no table [{name}]", f"did you mean [{near}]? If not, {remedy}" if near else remedy
    suggestion = _table_places(kind, name) or (repr(near) if near else "")
    names_text = f"known are {', '.join(kind.model_fields)}"
    return f"there is no setting {name!r}", f"did you mean {suggestion}?" if suggestion else names_text


def _environment(kind: type[Settings]) -> _SettingsSource:
    """The variables that are settings. Names of other programs come first, since later ones win."""
    values: dict[str, Any] = {}
    names: dict[_Steps, str] = {}
    variables = {name: value for name, value in sorted(os.environ.items()) if value}
    others = _variables_of_others(kind)
    for variable in others.keys() & variables.keys():
        place = others[variable]
        _put(values, place, variables[variable])
        names[place] = variable
    for variable in variables:
        if not variable.upper().startswith(_PREFIX) or variable in others:
            continue
        place = _place(variable)
        if place[0] not in kind.model_fields:
            _warn_of_typo(kind, variable, place)
            continue
        setting = place[:2]
        names[setting] = _PREFIX + "__".join(setting).upper()
        _put(values, place, _parsed(kind, place, variables[variable]))
    return _SettingsSource(values, names)


def _variables_of_others(kind: type[Settings]) -> Mapping[str, tuple[str, str]]:
    tables = ((name, field.annotation) for name, field in kind.model_fields.items())
    return {
        variable: (name, field)
        for name, table in tables
        if isinstance(table, type) and issubclass(table, Table)
        for variable, field in table.variables.items()
    }


def _place(variable: str) -> tuple[str, ...]:
    return tuple(variable.upper().removeprefix(_PREFIX).lower().split("__"))


def _parsed(kind: type[Settings], steps: Sequence[str], text: str) -> Any:
    """The value of a variable: JSON where a setting holds more than a text."""
    field = _table_fields(kind, steps[:-1]).get(steps[-1])
    if text[0] not in "[{" or (field is not None and not _is_composite(field.annotation)):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        name = f"{_PREFIX}{'__'.join(steps)}".upper()
        remedy = "write lists and tables as JSON"
        raise ConfigError(f"{name} is not JSON: {error}", field=steps[0], remedy=remedy) from None


def _is_composite(annotation: Any) -> bool:
    parts = get_args(annotation)
    if annotation in (list, tuple, dict) or any(map(_is_composite, parts)):
        return True
    origin = getattr(annotation, "__origin__", annotation)
    return isinstance(origin, type) and issubclass(origin, (BaseModel, tuple, list, dict))


def _warn_of_typo(kind: type[Settings], variable: str, place: Sequence[str]) -> None:
    """Warn of a variable that is nearly a setting's: it has no effect."""
    name, *within = place
    near = _with_two_underscores(kind, name) or nearest(name, kind.model_fields, cutoff=0.8)
    if near and name not in _OTHER_VARIABLES:
        new = "__".join((near, *within)).upper()
        _warn("%s is no setting and has no effect: did you mean %s%s?", variable, _PREFIX, new)


def _with_two_underscores(kind: type[Settings], name: str) -> str | None:
    """The setting of a table that a name with one underscore means: `http__port` for `http_port`."""
    tables = (table for table in kind.model_fields if name.startswith(f"{table}_"))
    pairs = ((table, name.removeprefix(f"{table}_")) for table in tables)
    return next(
        (f"{table}__{field}" for table, field in pairs if field in _table_fields(kind, (table,))), None
    )


def _expected(kind: type[Settings], first: Any) -> tuple[str, str]:
    """The error and the remedy of a setting; it never shows a secret."""
    steps, value = first["loc"], first["input"]
    if first["type"] == "missing":
        return "is missing", ""
    fields = _table_fields(kind, steps[:-1])
    if first["type"] == "extra_forbidden":
        lists = _headers_of_lists(fields, steps[:-1]) if isinstance(value, Mapping) else ""
        meant = f"did you mean {lists}?" if lists else ""
        return "there is no such setting", _meant(kind, steps, fields) or meant
    on_the_way = [  # of the items of a list, or of a table in a table, too
        _table_fields(kind, steps[:number]).get(str(step))
        for number, step in enumerate(steps)
        if number or len(steps) == 1
    ]
    is_secret = any(field is not None and "Secret" in str(field.annotation) for field in on_the_way)
    has_table = any(isinstance(item, Mapping) for item in (value if isinstance(value, list) else [value]))
    hidden = is_secret or not steps or has_table or "@" in str(value)  # a table may hold a secret
    expected = _EXPECTED.get(first["type"]) or sentence(first)
    if expected == _TABLE:
        hidden = True
        expected += f": write {_header(kind, steps)}" if isinstance(value, list) else ""
    return expected + ("" if hidden else f", not {str(value)[:80]!r}"), ""


def _header(kind: type[Settings], steps: _Steps) -> str:
    """How a file begins the table of a place, or one within it: `[[schedules.jobs]]`, `[channels.NAME]`."""
    field = _table_fields(kind, steps[:-1]).get(str(steps[-1]))
    if field is not None and get_origin(field.annotation) is Mapping:
        return f"[{'.'.join(map(str, steps))}.NAME]"
    return _headers_of_lists(_table_fields(kind, steps), steps) or f"[{'.'.join(map(str, steps))}]"


def _headers_of_lists(fields: Mapping[str, Any], steps: _Steps) -> str:
    """How a file begins an entry of the lists of tables in a table with these fields; "" if it has none."""
    kinds = ((name, field.annotation) for name, field in fields.items())
    names = (name for name, kind in kinds if get_origin(kind) is tuple and _item_model(kind) is not None)
    return " or ".join(f"[[{'.'.join(map(str, (*steps, name)))}]]" for name in islice(names, _MAX_TABLES))


def _meant(kind: type[Settings], steps: _Steps, fields: Iterable[str]) -> str:
    """The question that names the setting which was probably meant: one of the table, or of another."""
    name = str(steps[-1])
    elsewhere = _table_places(kind, name)
    near = nearest(name, fields, cutoff=0.8 if elsewhere else 0.5)
    suggestion = repr(near) if near else elsewhere
    return f"did you mean {suggestion}?" if suggestion else ""


def _table_places(kind: type[Settings], name: str) -> str:
    """The places of the settings of a name within tables: `'http.port' or 'mqtt.port'`."""
    tables = (table for table in kind.model_fields if name in _table_fields(kind, (table,)))
    return " or ".join(f"'{table}.{name}'" for table in islice(tables, _MAX_TABLES))


def _table_fields(kind: type[BaseModel], steps: Sequence[str | int]) -> Mapping[str, Any]:
    """The fields of the table at a place; empty where there is no table."""
    fields: Mapping[str, Any] = kind.model_fields
    of_items = False
    for step in steps:
        if of_items:  # the number or the name of an item, whose fields are known already
            of_items = False
            continue
        annotation = fields[str(step)].annotation if str(step) in fields else None
        of_items = get_origin(annotation) in (tuple, list, Mapping)
        model = _item_model(annotation)
        fields = model.model_fields if model is not None else {}
    return fields


def _item_model(annotation: Any) -> type[BaseModel] | None:
    """The model of a table, or of the items of a list or mapping of tables; None for any other setting."""
    of_items = get_origin(annotation) in (tuple, list, Mapping)
    models = (annotation, *get_args(annotation)) if of_items else (annotation,)
    return next((one for one in models if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _within(steps: Iterable[int | str]) -> str:
    """A place within a setting: `[0].limit_usd`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


def _variable(name: str, within: _Steps) -> str:
    """The environment's variable that gave a place within a setting: one of its own, or the setting's."""
    own = "__".join((name, *(str(step).upper() for step in within)))
    return own if own in {variable.upper() for variable in os.environ} else name + _within(within)


def _line_number(place: Sequence[str], text: str) -> int | None:
    """The number of the line of TOML that gives the setting of a place, or that begins its table."""
    target, table = tuple(place), tuple[str, ...]()
    entries: dict[tuple[str, ...], int] = {}  # of lists of tables: the number of the last
    begins, depth = None, 0
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*(\[\[?)([^\]]+)\]", line):
            table = ()
            for key in _keys(header[2]):
                table = (*table, *_last_entry(table, entries), key)
            if header[1] == "[[":
                entries[table] = entries.get(table, -1) + 1
                table = (*table, *_last_entry(table, entries))
            if table[: len(target)] == target:
                return number
            if target[: len(table)] == table and len(table) > depth:
                begins, depth = number, len(table)
        elif setting := re.match(r"\s*([^=#]+?)\s*=", line):
            full = (*table, *_keys(setting[1]))
            if full[: len(target)] == target or target[: len(full)] == full:
                return number
    return begins


def _last_entry(table: tuple[str, ...], entries: Mapping[tuple[str, ...], int]) -> tuple[str, ...]:
    """The place of the last entry of a list of tables; nothing for any other table."""
    return (str(entries[table]),) if table in entries else ()


def _keys(text: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in text.split("."))


def _warn(message: str, *args: object) -> None:
    if not os.environ.get(WARNED):
        logger.warning(message, *args)
