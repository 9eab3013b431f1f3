"""Reading the settings of a project: its file, the environment, and what is wrong with either."""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from meshwright.errors import ConfigError
from meshwright.settings.settings import PREFIX, Settings

FILE_NAME = "mesh.toml"
USUAL_NAMES = {
    "prompt_dir": "PROMPT_DIR",
    "litellm_base_url": "LITELLM_BASE_URL",
    "litellm_api_key": "LITELLM_API_KEY",
}
"""Settings that the environment may also give under a name that other programs use; `MESH_` is stronger."""


OTHER_VARIABLES = ("url", "dapr_bin", "debug")
"""Variables with our prefix that are no settings."""

logger = logging.getLogger(__name__)


def load_settings(project: Path, **overrides: Any) -> Settings:
    """Read the settings of a project; an override of None counts as not given.

    Raises ConfigError, which names the file and line, or the environment's variable, and what was expected.
    """
    path = project / FILE_NAME
    text = _read(path)
    written = _parse(text, path)
    environment = _environment()
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**{**written, **environment, **given})
    except ValidationError as error:
        raise _invalid(error, given, environment, path, text) from None


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", path=str(path)) from error


def _parse(text: str, path: Path) -> dict[str, Any]:
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
    for name in written:
        if name not in Settings.model_fields:
            raise _unknown(name, path, text)
    return written


def _unknown(name: str, path: Path, text: str) -> ConfigError:
    near = get_close_matches(name, Settings.model_fields, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(Settings.model_fields)}"
    return ConfigError(
        f"there is no setting {name!r}", path=str(path), line=_line_of(name, text), remedy=remedy, field=name
    )


def _environment() -> dict[str, Any]:
    usual = {name: value for name, variable in USUAL_NAMES.items() if (value := os.environ.get(variable))}
    try:
        found = EnvSettingsSource(Settings)()
    except SettingsError as error:
        name = next((name for name in Settings.model_fields if f'"{name}"' in str(error)), "")
        raise ConfigError(
            f"{_variable((name,))} is not JSON", field=name, remedy="write lists and tables as JSON"
        ) from None
    _warn_of_typos()
    return {**usual, **found}


def _warn_of_typos() -> None:
    """Warn of each variable that is nearly a setting's: it has no effect."""
    for variable in sorted(os.environ):
        name = variable.upper().removeprefix(PREFIX).partition("__")[0].lower()
        if not variable.upper().startswith(PREFIX) or name in (*Settings.model_fields, *OTHER_VARIABLES):
            continue
        if near := get_close_matches(name, Settings.model_fields, n=1, cutoff=0.8):
            logger.warning(
                "%s is no setting and has no effect: did you mean %s%s?", variable, PREFIX, near[0].upper()
            )


def _invalid(
    error: ValidationError,
    given: Mapping[str, Any],
    environment: Mapping[str, Any],
    path: Path,
    text: str,
) -> ConfigError:
    """Say which setting is wrong, from where it came, and what was expected; never what a secret was."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    hidden = first["type"] == "missing" or _is_secret(name, first["input"])
    found = "" if hidden else f", not {str(first['input'])[:80]!r}"
    expected = "is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
    message = f"{_place(first['loc'])}: {expected}{found}" if name else expected
    line = _line_of(name, text)
    if name in given or (name not in environment and line is None):
        return ConfigError(message, field=name)
    if name in environment:
        return ConfigError(
            f"{_variable(first['loc'])}: {expected}{found}",
            field=name,
            remedy="change or unset it",
        )
    return ConfigError(message, path=str(path), line=line, field=name)


def _place(steps: Sequence[int | str]) -> str:
    """A place within a setting: `budgets[0].limit_usd`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def _is_secret(name: str, value: object) -> bool:
    """Whether a value may not be shown: it is no one setting's, a secret, or an address with a password."""
    return not name or "Secret" in str(Settings.model_fields[name].annotation) or "@" in str(value)


def _variable(steps: Sequence[int | str]) -> str:
    """The environment's variable that gave a place within a setting: one of its own, or the setting's."""
    name = str(steps[0])
    ours = PREFIX + name.upper()
    given = {variable.upper() for variable in os.environ}
    own = "__".join((ours, *(str(step).upper() for step in steps[1:])))
    if own in given:
        return own
    return (ours if ours in given else USUAL_NAMES.get(name, ours)) + _place(steps).removeprefix(name)


def _line_of(name: str, text: str) -> int | None:
    """The number of the line of TOML that gives a setting."""
    key = re.compile(rf"""\s*\[*\s*["']?{re.escape(name)}["']?\s*[=.\]]""")
    lines = enumerate(text.splitlines(), start=1)
    return next((number for number, line in lines if name and key.match(line)), None)
