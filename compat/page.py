"""docs/compatibility.md, made of the recipes and the results of their runs."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from compat.recipe import ROOT, Group, Recipe
from compat.trial import RESULTS

PAGE = ROOT / "docs" / "compatibility.md"
HEAD = """\
# Compatibility

Each row is real software that Meshwright was run beside, with the version, the difference that you meet, and the remedy. Software without a row was not tried. `make compat` writes this page from [recipes](../compat/README.md) and the results of their runs; nothing in it is written by hand.

| tier | |
|---|---|
| gold | an hour of tasks or more, with kills and cuts, and with failovers where the row counts them |
| silver | kills of worker processes, and cut connections where there are any to cut (not on SQLite): each accepted task ended once, no step was repeated, no cent is off |
| bronze | contract tests |
| refused | Meshwright does not run on it and says so at the start |
| broke, not proved | a promise broke, or could not be tried |
| reported, not run here | seen by hand, by a test or in a finding, and not run by `make compat`; the source says which |

*Source* is the recipe that ran, the test that holds the row, or the script in [findings](../findings/README.md) that shows the behaviour without Meshwright.
"""


def read_result(recipe: Recipe) -> dict[str, Any] | None:
    """Read the result of a recipe's last run, or None."""
    path = RESULTS / f"{recipe.id}.json"
    return json.loads(path.read_text()) if recipe.is_run and path.exists() else None


def render_page(groups: Sequence[Group], recipes: Sequence[Recipe]) -> str:
    """Render the page."""
    parts = [HEAD, _summary(recipes)]
    for group in groups:
        members = [recipe for recipe in recipes if recipe.group == group.id]
        parts.append(f"## {group.title}\n")
        rows = [row for recipe in members for row in _run_row(recipe)]
        if rows:
            head = ("version", "tier", "date", "run", "difference", "remedy", "source")
            parts.append(_table((group.column, *head), rows))
        rows = [row for recipe in members for row in _reported_rows(recipe)]
        if rows:
            if parts[-1].startswith("|"):
                parts.append("Reported, not run here:\n")
            head = ("version", "tier", "difference", "remedy", "source")
            parts.append(_table((group.column, *head), rows))
        if group.text:
            parts.append(group.text.strip() + "\n")
    return "\n".join(parts)


def _summary(recipes: Sequence[Recipe]) -> str:
    tiers = [result["tier"] for recipe in recipes if (result := read_result(recipe))]
    counts = ", ".join(f"{tiers.count(tier)} {tier}" for tier in dict.fromkeys(sorted(tiers)))
    reported = sum(len(recipe.differs) for recipe in recipes)
    return f"{len(tiers)} rows are from runs ({counts}), {reported} are reported.\n"


def _run_row(recipe: Recipe) -> Iterator[Sequence[str]]:
    result = read_result(recipe)
    if result is None:
        return
    is_old = result["digest"] != recipe.digest
    figures = ", ".join(f"{value:,} {name}" for name, value in result["figures"].items() if value)
    differs = "<br>".join(_escape(text) for text in result["differs"])
    yield (
        recipe.name,
        result["version"],
        result["tier"] + (" (older than its recipe: run it again)" if is_old else ""),
        result["date"],
        figures or "the start",
        differs or "none",
        recipe.remedy,
        f"[`{recipe.id}`](../compat/recipes/{recipe.group}/{recipe.id}.toml)",
    )


def _reported_rows(recipe: Recipe) -> Iterator[Sequence[str]]:
    for row in recipe.differs:
        yield recipe.name, row.version, "reported", row.what, row.remedy, row.source


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return (
        "".join(f"| {' | '.join(line)} |\n" for line in lines)
        .replace("| --- ", "|---")
        .replace("---|\n", "---|\n")
    )
