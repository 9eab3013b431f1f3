"""docs/compatibility.md is what recipes and results make of it, and each source that it names is there."""

import difflib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from compat.page import render_page
from compat.recipe import read_groups, read_recipe, read_recipes
from compat.trial import RESULTS

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/compatibility.md").read_text()
SPANS = set(re.findall(r"`([^`]+)`", PAGE))


def test_each_test_of_the_page_is_there() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = {span for span in SPANS if span.startswith("test_")}
    assert named and {name for name in named if f"def {name.partition('[')[0]}(" not in tests} == set()


def test_each_file_of_the_page_is_there() -> None:
    named = {span for span in SPANS if span.startswith(("tests/", "findings/"))}
    named |= set(re.findall(r"\]\(\.\./([^)#]+)", PAGE))
    assert named and {name for name in named if not (ROOT / name).exists()} == set()


def test_each_finding_is_a_row_of_the_page() -> None:
    scripts = {path.name for path in (ROOT / "findings").glob("*.sh")}
    assert scripts and {name for name in scripts if f"(../findings/{name})" not in PAGE} == set()


def test_the_page_is_what_recipes_and_results_make_of_it() -> None:
    page = render_page(read_groups(), read_recipes())
    lines = difflib.unified_diff(
        PAGE.splitlines(), page.splitlines(), "docs/compatibility.md", "made", lineterm=""
    )
    assert not (text := "\n".join(lines)), f"run `python -m compat --page`:\n{text}"


def test_each_recipe_is_of_a_group_and_has_a_name_of_its_own() -> None:
    recipes = read_recipes()
    assert {recipe.group for recipe in recipes} == {group.id for group in read_groups()}
    ids = [recipe.id for recipe in recipes if recipe.is_run]
    assert ids and len(ids) == len(set(ids))


def test_each_test_that_a_recipe_runs_is_there() -> None:
    arguments = [one for recipe in read_recipes() for one in recipe.tests if one.startswith("tests/")]
    assert {one for one in arguments if not (ROOT / one.partition("::")[0]).exists()} == set()


def test_each_result_has_a_recipe() -> None:
    recipes = {recipe.id: recipe for recipe in read_recipes() if recipe.is_run}
    results = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    assert results
    for result in results:
        assert result["version"] == recipes[result["recipe"]].version
        assert result["tier"] in ("gold", "silver", "bronze", "refused", "broke", "not proved")


def test_a_result_older_than_its_recipe_is_marked() -> None:
    recipes = read_recipes()
    recipe = next(recipe for recipe in recipes if recipe.id == "mosquitto-2.0.11")
    longer = replace(recipe, prove=f"{recipe.prove} --rate 1")
    other_words = replace(recipe, remedy="none", differs=())
    assert "older than its recipe" in render_page(read_groups(), [longer])
    assert "older than its recipe" not in render_page(read_groups(), [other_words])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version = '1'", "name"),
        ("name = 'a'\nversion = '1'", "Nothing is run"),
        ("name = 'a'\nversion = '1'\nprove = '--minutes 1'", "shows is missing"),
        ("name = 'a'\nversion = '1'\ntests = ['b']\nprove = 'c'", "exclude one another"),
        ("name = 'a'\nversion = '1'\nmodels = 'b'\nprove = 'c'", "exclude one another"),
        ("name = 'a'\nversion = '1'\ntests = ['b']\nshows = 'c'\ntier = 'iron'", "'iron' is none of"),
        ("name = 'a'\nversion = '1'\nstarts = ['b']", "starts"),
    ],
)
def test_a_malformed_recipe_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "group" / "a.toml"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ValueError, match=problem) as refusal:
        read_recipe(path)
    assert "a.toml: " in str(refusal.value)
