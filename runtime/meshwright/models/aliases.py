"""Names of models of yesterday, and what does their work today: data, so that old code goes on."""

from __future__ import annotations

import warnings

ALIASES = {
    "gpt-3.5-turbo": "openai/gpt-5.4-nano",
    "gpt-3.5-turbo-16k": "openai/gpt-5.4-nano",
    "text-davinci-003": "openai/gpt-5.4-nano",
    "gpt-4": "openai/gpt-5.4",
    "gpt-4-32k": "openai/gpt-5.4",
    "gpt-4-turbo": "openai/gpt-5.4",
    "gpt-4-turbo-preview": "openai/gpt-5.4",
    "gpt-4-vision-preview": "openai/gpt-5.4",
    "gpt-4.5-preview": "openai/gpt-5.4",
    "o1-preview": "openai/gpt-5.4",
    "o1-mini": "openai/gpt-5.4-mini",
    "claude-instant-1": "anthropic/claude-haiku-4-5",
    "claude-instant-1.2": "anthropic/claude-haiku-4-5",
    "claude-2": "anthropic/claude-sonnet-4-6",
    "claude-2.0": "anthropic/claude-sonnet-4-6",
    "claude-2.1": "anthropic/claude-sonnet-4-6",
    "claude-3-haiku": "anthropic/claude-haiku-4-5",
    "claude-3-sonnet": "anthropic/claude-sonnet-4-6",
    "claude-3-opus": "anthropic/claude-opus-4-8",
    "claude-3-haiku-20240307": "anthropic/claude-haiku-4-5",
    "claude-3-sonnet-20240229": "anthropic/claude-sonnet-4-6",
    "claude-3-opus-20240229": "anthropic/claude-opus-4-8",
    "claude-3-opus-latest": "anthropic/claude-opus-4-8",
    "claude-3-5-haiku": "anthropic/claude-haiku-4-5",
    "claude-3-5-haiku-20241022": "anthropic/claude-haiku-4-5",
    "claude-3-5-haiku-latest": "anthropic/claude-haiku-4-5",
    "claude-3-5-sonnet": "anthropic/claude-sonnet-4-6",
    "claude-3-5-sonnet-20240620": "anthropic/claude-sonnet-4-6",
    "claude-3-5-sonnet-20241022": "anthropic/claude-sonnet-4-6",
    "claude-3-5-sonnet-latest": "anthropic/claude-sonnet-4-6",
    "claude-3-7-sonnet": "anthropic/claude-sonnet-4-6",
    "claude-3-7-sonnet-20250219": "anthropic/claude-sonnet-4-6",
    "claude-3-7-sonnet-latest": "anthropic/claude-sonnet-4-6",
    "gemini-pro": "gemini/gemini-2.5-pro",
    "gemini-1.5-pro": "gemini/gemini-2.5-pro",
    "gemini-1.5-flash": "gemini/gemini-2.5-flash",
}


class LegacyModelName(FutureWarning):
    """A model was asked for by a name that stands for another today."""


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
