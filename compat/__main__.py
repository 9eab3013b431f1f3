"""Run recipes and write docs/compatibility.md: `python -m compat [GROUP or RECIPE]...`; without names all.

`--page` runs nothing and writes the page alone.
"""

import sys

from compat.page import PAGE, render_page
from compat.recipe import read_groups, read_recipes
from compat.trial import RecipeFailed, run_recipe


def main(arguments: list[str]) -> int:
    """Return 0, or 1 if a recipe could not be run or a promise broke."""
    recipes = read_recipes()
    names = {name for name in arguments if name != "--page"}
    if unknown := names - {name for recipe in recipes for name in (recipe.id, recipe.group)}:
        print(
            f"compat: no group or recipe is called {', '.join(sorted(unknown))}: see compat/recipes",
            file=sys.stderr,
        )
        return 2
    failures = 0
    for recipe in recipes:
        is_named = not names or {recipe.id, recipe.group} & names
        if "--page" in arguments or not recipe.is_run or not is_named:
            continue
        print(f"{recipe.id}: ", end="", flush=True)
        try:
            result = run_recipe(recipe)
        except RecipeFailed as error:
            failures += 1
            print(f"not run: {error}")
            continue
        failures += result["tier"] in ("broke", "not proved")
        print(result["tier"], result["figures"], *result["differs"], sep="\n  ")
    PAGE.write_text(render_page(read_groups(), recipes))
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
