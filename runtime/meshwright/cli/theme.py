"""How the words of a road look in a terminal, as styles of rich."""

from __future__ import annotations

STYLES = {
    "accepted": "bold cyan",
    "dispatched": "cyan",
    "started": "cyan",
    "resumed": "cyan",
    "waiting": "cyan",
    "memory": "blue",
    "context": "blue",
    "model": "magenta",
    "tool": "yellow",
    "attempt": "bold yellow",
    "cancelling": "bold yellow",
    "succeeded": "bold green",
    "failed": "bold red",
    "cancelled": "bold yellow",
    "timed out": "bold red",
}
OTHER = "dim"


def style_of(word: str) -> str:
    """The style of a line's first word."""
    return STYLES.get(word, OTHER)
