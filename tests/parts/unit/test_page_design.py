"""The colours of the page: the design says their contrast, and it is that of the style sheet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import meshwright

ROOT = Path(__file__).resolve().parents[3]
STYLE = (Path(meshwright.__file__).parent / "parts/page/web/ui/style.css").read_text()
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    for block in re.findall(r":root \{(.*?)\}", STYLE, re.S)
)
ROWS = re.findall(
    r"^\| `([\w-]+)` on `([\w-]+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$",
    (ROOT / "docs/design-of-the-page.md").read_text(),
    re.MULTILINE,
)


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = [
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in channels
    ]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, from 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("text", "ground", "light", "dark", "least"), ROWS)
def test_the_contrast_is_as_written_down_and_enough(
    text: str, ground: str, light: str, dark: str, least: str
) -> None:
    measured = [contrast(theme[text], theme[ground]) for theme in (LIGHT, DARK)]
    assert [f"{figure:.1f}" for figure in measured] == [light, dark]
    assert min(measured) >= float(least)


def test_every_colour_has_its_contrast_written_down() -> None:
    assert LIGHT.keys() == DARK.keys()
    assert {name for row in ROWS for name in row[:2]} == LIGHT.keys() - {
        "line"
    }  # which divides, and says nothing
