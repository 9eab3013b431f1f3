"""Draws the districts of the runtime in the order of the import rules: `python tools/districts.py [--check]`.

Names and order are those of the first contract of `[tool.importlinter]`, sentences those of the districts.
"""

import ast
import sys
import tomllib
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "runtime/meshwright"
PICTURE = ROOT / "docs/images/districts.svg"
WIDTH, LINE, GAP, MARGIN = 880, 17, 8, 12
PIXELS_OF_A_CHARACTER = 7
STYLE = """
    text { font-family: ui-sans-serif, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
    .name { font-size: 14px; font-weight: 600; fill: #1f2328; }
    .note { font-size: 12.5px; fill: #57606a; }
    .inside { stroke: #6e7781; fill: #ffffff; stroke-width: 1.5; }
    .public { stroke: #0969da; fill: #ddf4ff; stroke-width: 1.5; }
"""


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    drawn = draw(layers(project), set(project["meshwright"]["public"]))
    if "--check" not in sys.argv:
        PICTURE.write_text(drawn, encoding="utf-8")
    elif drawn != PICTURE.read_text(encoding="utf-8"):
        sys.exit(f"{PICTURE.name}: stale; python tools/districts.py draws it")


def layers(project: dict[str, Any]) -> list[list[str]]:
    """The districts of each layer, the outermost first."""
    rows = project["importlinter"]["contracts"][0]["layers"]
    names = [[name.strip(" ()") for name in row.split("|")] for row in rows]
    districts = {path.stem for path in SOURCE.iterdir()} - {"__main__"}
    return [row for row in ([name for name in row if name in districts] for row in names) if row]


def sentence_of(district: str) -> str:
    """The first line of its docstring, without its name."""
    path = SOURCE / district / "__init__.py" if (SOURCE / district).is_dir() else SOURCE / f"{district}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[0].replace("\n", " ").replace("`", "")


def packages_of(district: str) -> str:
    folders = sorted(path.parent.name for path in (SOURCE / district).glob("*/__init__.py"))
    return " · ".join(folders)


def draw(rows: list[list[str]], public: set[str]) -> str:
    boxes: list[str] = []
    top = MARGIN
    for row in rows:
        width = (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) / len(row)
        notes = {district: notes_of(district, int((width - 24) / PIXELS_OF_A_CHARACTER)) for district in row}
        height = 34 + LINE * max(map(len, notes.values()))
        for number, district in enumerate(row):
            kind = "public" if f"meshwright.{district}" in public else "inside"
            left = MARGIN + number * (width + GAP)
            boxes += box(
                district, notes[district], f'class="{kind}" width="{width:g}" height="{height}"', left, top
            )
        top += height + GAP
    title = "The districts of the runtime: each imports only those below it"
    order = ", ".join(" and ".join(row) for row in rows)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top - GAP + MARGIN}" role="img">',
            f"  <title>{title}</title>",
            f"  <desc>From the outermost to the innermost: {escape(order)}.</desc>",
            f"  <style>{STYLE}  </style>",
            '  <rect width="100%" height="100%" rx="8" fill="#f6f8fa"/>',
            *boxes,
            "</svg>\n",
        ]
    )


def notes_of(district: str, columns: int) -> list[str]:
    return [*wrap(sentence_of(district), columns), *wrap(packages_of(district), columns)]


def box(district: str, notes: list[str], shape: str, left: float, top: int) -> list[str]:
    lines = [
        f'  <rect {shape} x="{left:g}" y="{top}" rx="6"/>',
        f'  <text class="name" x="{left + 12:g}" y="{top + 21}">{district}</text>',
    ]
    for number, note in enumerate(notes, 1):
        place = f'x="{left + 12:g}" y="{top + 22 + LINE * number}"'
        lines.append(f'  <text class="note" {place}>{escape(note)}</text>')
    return lines


if __name__ == "__main__":
    main()
