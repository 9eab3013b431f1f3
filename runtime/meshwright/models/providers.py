"""The providers of models, as data (`providers.toml`): their names, and which variables open them.

Any other provider that LiteLLM knows works too, by LiteLLM's own names for its variables.
"""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from meshwright.errors import ConfigError

OFFLINE = "offline"
"""The name of the built-in model, which nobody offers and which needs no credentials."""
_LITELLM_LIST = "provider_endpoints_support_backup.json"
"""The file of the `litellm` package that lists its providers."""
_DATA = tomllib.loads(Path(__file__).with_name("providers.toml").read_text("utf-8"))
_SAME: dict[str, str] = _DATA["same"]
ALIASES: dict[str, str] = _DATA["aliases"]
"""Names of models of yesterday, and what does their work today."""


class LegacyModelName(FutureWarning):
    """A model was asked for by a name that stands for another today."""


@dataclass(frozen=True, slots=True)
class _Param:
    """One of LiteLLM's parameters of a deployment, and the variables that give it: the first that is set."""

    name: str
    variables: tuple[str, ...]
    default: str | None = None
    optional: bool = False

    def value(self, environment: Mapping[str, str]) -> str | None:
        """Where the value is to be found (`os.environ/NAME`), so that nothing here ever holds a key."""
        found = next((name for name in self.variables if environment.get(name)), None)
        return f"os.environ/{found}" if found else self.default

    def misses(self, environment: Mapping[str, str]) -> bool:
        """Whether a call is impossible, since nothing gives it."""
        return not self.optional and self.value(environment) is None


@dataclass(frozen=True, slots=True)
class Provider:
    """Who offers models. `families` are how names begin that need no `provider/` before them.

    `console` is where credentials are had; `package` what must be importable besides LiteLLM.
    """

    name: str
    title: str
    example: str
    params: tuple[_Param, ...] = ()
    console: str = ""
    families: tuple[str, ...] = ()
    package: str = ""

    def variable(self, suffix: str) -> str:
        """The name of one of its own variables: `OPENAI_TIMEOUT_SECONDS`."""
        return f"{re.sub(r'[^A-Za-z0-9]', '_', self.name).upper()}_{suffix}"


def _provider(data: dict[str, Any]) -> Provider:
    said: list[dict[str, Any]] = data["params"]
    params = [_Param(**(each | {"variables": tuple(each["variables"])})) for each in said]
    known: dict[str, Any] = {"params": tuple(params), "families": tuple(data.get("families", ()))}
    return Provider(**(data | known))


PROVIDERS: tuple[Provider, ...] = tuple(map(_provider, _DATA["providers"]))


def current(name: str) -> str:
    """What a name stands for: itself, or for a legacy one its successor, which Python warns of once.

    A name with its provider (`openai/gpt-4-turbo`) is meant as it stands.
    """
    successor = ALIASES.get(name)
    if successor is None:
        return name
    # Told from this line for every caller: Python shows a text once for each line that warns.
    warnings.warn(
        f"model {name!r} is answered by {successor}: name that instead", LegacyModelName, stacklevel=1
    )
    return successor


def provider_of(model: str) -> tuple[Provider, str]:
    """Who offers a model, and its whole name (`gpt-5.4` is `openai/gpt-5.4`).

    Legacy names lead to their successors. Raises ConfigError for an unknown provider, with near ones.
    """
    name = current(model)
    prefix, slash, _ = name.partition("/")
    if not slash:
        provider = next((each for each in PROVIDERS if name.startswith(each.families)), None)
        if provider is None:
            examples = [each.example.partition("/")[2] for each in PROVIDERS]
            raise _unknown(f"model {model!r} does not say who offers it", name, [*examples, *ALIASES])
        return provider, f"{provider.name}/{name}"
    provider = next((each for each in PROVIDERS if each.name == _SAME.get(prefix, prefix)), None)
    if provider is None and prefix in _litellms_providers():
        key, base = (Provider(prefix, prefix, "").variable(name) for name in ("API_KEY", "API_BASE"))
        params = (_Param("api_key", (key,), optional=True), _Param("api_base", (base,), optional=True))
        provider = Provider(prefix, prefix, f"{prefix}/MODEL", params)
    if provider is None:
        names = [each.name for each in PROVIDERS] + sorted(_litellms_providers())
        raise _unknown(f"model {model!r}: there is no provider {prefix!r}", prefix, names)
    return provider, name


def provider_name(model: str) -> str:
    """Whose model a deployment's is, as LiteLLM names providers; "" where its name does not say it."""
    prefix, slash, _ = model.partition("/")
    if slash:
        return prefix
    return next((each.name for each in PROVIDERS if model.startswith(each.families)), "")


def provider_params(model: str) -> tuple[_Param, ...]:
    """What gives the credentials and the address of a model's provider; nothing where it is not known."""
    prefix = provider_name(model)
    name = _SAME.get(prefix, prefix)
    return next((each.params for each in PROVIDERS if each.name == name), ())


def bare_name(model: str) -> str:
    """A model's name as its provider knows it."""
    return model.partition("/")[2] or model


def missing(provider: Provider, model: str, environment: Mapping[str, str]) -> ConfigError | None:
    """What is missing to call a model of the provider, with where to get it; None if all is there."""
    wanted = [param for param in provider.params if param.misses(environment)]
    if wanted:
        names = ", ".join(" or ".join(param.variables) for param in wanted)
        console = f"; credentials are had at {provider.console}" if provider.console else ""
        verb = "is" if len(wanted) == 1 else "are"
        return ConfigError(
            f"model {model!r} is offered by {provider.title}, and {names} {verb} not set",
            remedy=f"Set {'it' if len(wanted) == 1 else 'them'} in the environment{console}",
            field="model",
        )
    if provider.package and not is_importable(provider.package):
        return ConfigError(
            f"model {model!r} is offered by {provider.title}, which LiteLLM calls by {provider.package}",
            remedy=f"Install it: pip install {provider.package.replace('.', '-')}",
            field="model",
        )
    return None


def is_importable(package: str) -> bool:
    """Whether a package is there; asks without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of a parent
        return False


def _litellms_providers() -> frozenset[str]:
    """The providers of chat models of the installed LiteLLM, read without importing it; none without it."""
    spec = importlib.util.find_spec("litellm")
    path = Path(spec.origin).with_name(_LITELLM_LIST) if spec and spec.origin else None
    if path is None or not path.is_file():
        return frozenset()
    listed = json.loads(path.read_text("utf-8"))["providers"]
    return frozenset(name for name, each in listed.items() if each["endpoints"].get("chat_completions"))


def _unknown(message: str, name: str, known: list[str]) -> ConfigError:
    """The error for a name that leads to no provider."""
    near = get_close_matches(name, list(dict.fromkeys(known)), n=3, cutoff=0.5)
    titles = ", ".join(each.name for each in PROVIDERS)
    hint = (
        f"Did you mean {' or '.join(near)}?" if near else f"Providers are {titles}, and others of LiteLLM's."
    )
    return ConfigError(message, remedy=f"{hint} Write provider/model, like openai/gpt-5.4", field="model")
