"""Did you mean: the known name that a wrong one is closest to."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that is most like this one, if any is like it; one with the same letters wins."""
    from difflib import get_close_matches  # only after a mistake

    close = get_close_matches(name, list(dict.fromkeys(known)), cutoff=cutoff)
    return min(close, key=lambda likely: sorted(likely) != sorted(name), default=None)
