"""Recipes: one TOML file for each real thing, and the groups of the page."""

import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "compat" / "recipes"
GROUPS = ROOT / "compat" / "groups.toml"
TEXTS = frozenset({"remedy", "differs"})
"""The fields that say something about a run and change nothing in it: they are no part of the digest."""
RANKS = ("bronze", "silver", "gold")


@dataclass(frozen=True)
class Group:
    """A section of the page."""

    id: str
    title: str
    column: str
    text: str = ""


@dataclass(frozen=True)
class Difference:
    """A row that no run of a recipe wrote: a difference, its remedy, and the source of both."""

    version: str
    what: str
    remedy: str
    source: str


@dataclass(frozen=True)
class Recipe:
    """A real thing: how it is got and started, what is run against it, and what is reported of it.

    Commands and files may name `$home` (what was got), `$data` (an empty folder), `$port`, `$port2` (free
    ports of loopback), `$python` (the project's interpreter) and `$uv`.
    """

    id: str
    group: str
    name: str
    version: str
    differs: Sequence[Difference] = ()
    get: Sequence[str] = ()
    """Commands run once in `$home`, behind writing `files`."""
    files: dict[str, str] = field(default_factory=dict)
    shows: str = ""
    """A command whose output has the version."""
    prepare: Sequence[str] = ()
    """Commands before the start, in `$data`."""
    start: Sequence[str] = ()
    """Commands of servers; the first listens on `$port`, the second on `$port2`."""
    life_seconds: int = 900
    """The servers end after so long, whatever becomes of the runner."""
    prove: str = ""
    """Options of `mesh prove`."""
    models: str = ""
    """The address of a model server, for `mesh models test` with `mesh.toml` of `files`."""
    tests: Sequence[str] = ()
    """Arguments of pytest; the tests must pass, and none be skipped."""
    env: dict[str, str] = field(default_factory=dict)
    """The environment of what is run."""
    tier: str = "bronze"
    """The tier of tests that pass: silver if they kill and cut. `mesh prove` says its own."""
    refused: str = ""
    """Words of the refusal, if the promise is that the thing is refused."""
    remedy: str = "none needed"
    """The remedy of what a run of it shows."""

    @property
    def is_run(self) -> bool:
        """Whether anything is run against it; else it is reported only."""
        return bool(self.prove or self.models or self.tests)

    @property
    def digest(self) -> str:
        """The SHA-256 of all fields that a run rests on."""
        texts = TEXTS if self.models else TEXTS | {"models"}  # which earlier recipes lack
        fields = {name: value for name, value in vars(self).items() if name not in texts}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_groups() -> list[Group]:
    """Read the groups, in the order of the page."""
    return [Group(**fields) for fields in tomllib.loads(GROUPS.read_text())["group"]]


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; its folder is its group. Raises ValueError, which names the file."""
    try:
        fields: dict[str, Any] = tomllib.loads(path.read_text())
        differs = [Difference(**row) for row in fields.pop("differs", [])]
        recipe = Recipe(id=path.stem, group=path.parent.name, differs=differs, **fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if problem := _find_problem(recipe):
        raise ValueError(f"{path}: {problem}")
    return recipe


def read_recipes() -> list[Recipe]:
    """Read all recipes, sorted by group and name."""
    return [read_recipe(path) for path in sorted(RECIPES.glob("*/*.toml"))]


def _find_problem(recipe: Recipe) -> str:
    if sum(map(bool, (recipe.prove, recipe.models, recipe.tests))) > 1:
        return "prove, models and tests exclude one another: write two recipes"
    if recipe.is_run and not recipe.shows:
        return "shows is missing: a command whose output has the version"
    if not recipe.is_run and not recipe.differs:
        return "Nothing is run and nothing reported: prove, models, tests or differs"
    if recipe.tier not in RANKS:
        return f"tier {recipe.tier!r} is none of {', '.join(RANKS)}"
    return ""
