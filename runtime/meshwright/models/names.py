"""The names that LiteLLM reads in its file: it ignores a misspelt one, or passes it on to the provider.

They are data, taken once from the release that `litellm_names.json` names.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from functools import cache
from pathlib import Path

DATA = Path(__file__).with_name("litellm_names.json")
SETTINGS = ("router_settings", "litellm_settings")
OPEN = frozenset({"model_info", "litellm_params"})
"""Where there may be names that we do not know: owners' notes, and parameters of providers, of which LiteLLM
gets more with every release. Only what looks like a slip is refused."""


@cache
def known_names() -> dict[str, frozenset[str]]:
    """The names that LiteLLM reads, by section."""
    data = json.loads(DATA.read_text("utf-8"))
    return {section: frozenset(names) for section, names in data.items() if section != "source"}


def wrong_name(section: str, name: str) -> str | None:
    """What to do about a name that LiteLLM does not read in a section; None for one that it does."""
    known = known_names()
    if name in known[section]:
        return None
    for other in SETTINGS:
        if section in SETTINGS and name in known[other]:
            return f"It belongs under {other}"
    near = get_close_matches(name, known[section], n=1, cutoff=0.8)
    if near:
        return f"Did you mean {near[0]!r}?"
    return None if section in OPEN else "Leave it out"
