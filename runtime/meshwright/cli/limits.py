"""The options that limit a task's run, and the limits that hold as `mesh task` shows them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from typing import Any

import click

from meshwright.cli.budgets import AMOUNT
from meshwright.cli.options import WholeNumber

_MOST = 100_000
_OPTIONS: dict[str, tuple[str, click.ParamType[Any], str]] = {
    "max_steps": ("N", WholeNumber(1, _MOST), "Replies of the model that may call tools."),
    "max_repeats": ("N", WholeNumber(2, _MOST), "How often in a row the same calls may give the same."),
    "max_tokens": ("N", WholeNumber(1), "Tokens that models may read and write."),
    "max_usd": ("USD", AMOUNT, "What its own model calls may cost before it has to answer."),
    "max_seconds": ("S", click.FloatRange(0, min_open=True), "Seconds that models and tools may take."),
}


def limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of each limit; the command gets those given as `limits`, or None."""

    @wraps(command)
    def call(*args: Any, **given: Any) -> Any:
        chosen = {name: given.pop(name) for name in _OPTIONS}
        limits = {name: value for name, value in chosen.items() if value is not None}
        return command(*args, limits=limits or None, **given)

    option: Any = call
    for name, (metavar, kind, text) in reversed(_OPTIONS.items()):
        option = click.option(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=text)(option)
    return option


def limits_text(limits: Sequence[Mapping[str, Any]], reached: Collection[str]) -> str:
    """The limits that hold, each with where it is set; `reached` are the events of those that were."""
    return ", ".join(
        f"{limit['limit']} {_number(limit['most'])} ({_where(limit)})"
        f"{' reached' if limit['event'] in reached else ''}"
        for limit in limits
    )


def _number(most: Any) -> str:
    return f"{most:,}" if isinstance(most, int | float) else str(most)


def _where(limit: Mapping[str, Any]) -> str:
    name = limit["limit"]
    return limit["setting"].removeprefix(f"limits.{name} of ").removeprefix(f"{name} in ")
