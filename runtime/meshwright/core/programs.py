"""The variables of the programs that a mesh starts."""

from __future__ import annotations

import os
from collections.abc import Iterable

_BASICS = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")


def environment_with(names: Iterable[str] = ()) -> dict[str, str]:
    """The variables of this process that every program gets, and those with the names.

    A program gets no others: a broker or git needs no key of a model.
    """
    return {name: os.environ[name] for name in (*_BASICS, *names) if name in os.environ}
