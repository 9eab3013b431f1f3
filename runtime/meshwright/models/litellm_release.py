"""The one release of LiteLLM that the router works with, and which one is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from meshwright.errors import ConfigError

RELEASE = "1.88.6"
"""What the extra `litellm` installs. Others fail late: 1.92 loses tools, 1.102 streams, 1.106 both."""


def installed_release() -> str | None:
    """The release of LiteLLM that is installed, or None; asks without importing it."""
    try:
        return version("litellm") if find_spec("litellm") else None
    except PackageNotFoundError:
        return None


def require_litellm() -> None:
    """Raises ConfigError where LiteLLM is missing, or is another release than the one that was tested."""
    found = installed_release()
    if found is None:
        raise ConfigError(
            "The in-process router needs LiteLLM, which is not installed",
            remedy="In a checkout of Meshwright: pip install -e '.[litellm]'",
            field="model",
        )
    if found != RELEASE:
        raise ConfigError(
            f"LiteLLM {found} is installed, and the in-process router works with {RELEASE} only",
            remedy=f"Run: pip install litellm=={RELEASE}",
            field="model",
        )
