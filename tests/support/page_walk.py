"""A walk through the page by its links: each view of the side bar, and one page of each kind behind it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.support.page import SHOTS

SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
PHONE, DESKTOP = 820, 1280
CUT_TABLES = """() => [...document.querySelectorAll(".stacks")]
  .filter((one) => one.scrollWidth > one.clientWidth + 1)
  .map((one) => `the table ${one.ariaLabel} is cut by ${one.scrollWidth - one.clientWidth} px`)"""
MOVING = """() => [...document.querySelectorAll("*")]
  .filter((one) => parseFloat(getComputedStyle(one).transitionDuration) > 0 || one.getAnimations().length)
  .slice(0, 3).map((one) => `moves in spite of reduced motion: ${one.outerHTML.slice(0, 90)}`)"""
MAX_TABS = 2
"""Of a view, and of its filters, that are gone to."""
LINKS = "(all) => all.map((link) => link.getAttribute('href'))"

NO_WORDS = ("undefined", "NaN", "Invalid Date", "[object Object]")
FOCUSABLE = """() => [...document.querySelectorAll(
    "a[href], button:not(:disabled), input, select, textarea, summary, [tabindex='0']")]
  .filter((one) => one.tabIndex >= 0 && one.checkVisibility({ visibilityProperty: true }))"""
FOCUSED = """() => {
  const one = document.activeElement;
  if (one === document.body || one.isReached) return null;
  one.isReached = true;
  const { outlineStyle, outlineWidth } = getComputedStyle(one);
  const shape = one.querySelector("rect");
  const { x, y, width, height } = one.getBoundingClientRect();
  // A tall field is scrolled to its caret, so a part of it may lie below the bar of a phone.
  const tops = [0.1, 0.5, 0.9].map((part) =>
    document.elementFromPoint(Math.max(1, x + Math.min(width, innerWidth - x) / 2), y + height * part));
  const isOutlined = (outlineStyle !== "none" && parseFloat(outlineWidth) >= 1) ||
    (shape && getComputedStyle(shape).strokeWidth === "3px");
  const isCovered = tops.every((top) => top !== null && !one.contains(top) && !top.contains(one));
  const faults = [isOutlined || "is not outlined", isCovered && "is covered"].filter((fault) => fault.length);
  return faults.map((fault) => `${one.outerHTML.slice(0, 90)} ${fault}`);
}"""


@dataclass(frozen=True)
class Look:
    """A window: its width in CSS pixels, its colours, and whether axe runs at it."""

    width: int
    scheme: Literal["light", "dark"] = "light"
    is_forced: bool = False
    is_judged: bool = True

    @property
    def name(self) -> str:
        """As files are called."""
        return f"{self.scheme}{'-forced' if self.is_forced else ''}-{self.width}"

    async def take(self, page: Page) -> None:
        """Have a page look so."""
        forced: Any = "active" if self.is_forced else "none"
        await page.emulate_media(color_scheme=self.scheme, forced_colors=forced, reduced_motion="reduce")
        await page.set_viewport_size({"width": self.width, "height": 844 if self.width < PHONE else 800})


def _kind(address: str) -> str:
    """Addresses of one kind show the same page with other data."""
    path, _, query = address.partition("?")
    view, _, identity = path.removeprefix("#/").partition("/")
    names = sorted(pair.partition("=")[0] for pair in query.split("&") if pair)
    return " ".join([view, "/ID" if identity else "", *names])


async def expect_whole(page: Page) -> None:
    """A page shows all that it has asked for."""
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    await expect(page.locator(".health")).to_contain_text(re.compile(r"\w"))
    await expect(page.get_by_text("Asking…")).to_have_count(0)


async def walk(page: Page, url: str) -> AsyncIterator[str]:
    """Go to each view of the side bar, and to one page of each kind behind it; yields their addresses."""
    waiting: list[str] = await page.locator(".side nav a").evaluate_all(LINKS)
    kinds = {_kind(address) for address in waiting}
    tabs = Counter[str]()
    while waiting:
        address = waiting.pop(0)
        await page.goto(f"{url}/{address}")
        await expect_whole(page)
        yield address
        view = address.removeprefix("#/").partition("/")[0].partition("?")[0]
        for link in await page.locator("main a[href^='#/']").evaluate_all(LINKS):
            path = link.removeprefix("#/").partition("?")[0]
            is_tab = path == view and tabs[view] < MAX_TABS
            if _kind(link) not in kinds and ("/" in path or is_tab):
                tabs[view] += is_tab
                kinds.add(_kind(link))
                waiting.append(link)


async def judge(page: Page, address: str, look: Look) -> list[str]:
    """All that is wrong with a page in a window: it is too wide, a table is cut, it moves, or axe says so."""
    await look.take(page)
    name = f"{address} {look.name}"
    faults = list[str]()
    text = await page.locator("main").inner_text()
    faults += [f"{name}: shows {word!r}" for word in NO_WORDS if word in text]
    if (pixels := await page.evaluate(SIDEWAYS)) > 0:
        faults.append(f"{name}: {pixels} px wider than the window")
    if look.width <= PHONE or look.width >= DESKTOP:
        faults += [f"{name}: {fault}" for fault in await page.evaluate(CUT_TABLES)]
    if look.is_judged:
        faults += [f"{name}: {fault}" for fault in await page.evaluate(MOVING)]
        if await page.evaluate("!window.axe"):
            await page.evaluate(Axe().axe_script)
        result = await page.evaluate("axe.run({ resultTypes: ['violations'] })")
        faults += [f"{name}: {violation}" for violation in _violations(result)]
    if SHOTS and look.is_judged:
        file = re.sub(r"[^a-z0-9=-]+", "-", re.sub(r"/[^?]{8,}", "/id", address.removeprefix("#/")).lower())
        await page.screenshot(path=Path(SHOTS, f"{file[:60]}-{look.name}.png"))
    return faults


def _violations(response: dict[str, Any]) -> list[str]:
    return [
        f"{violation['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for violation in response["violations"]
        for node in violation["nodes"][:2]
    ]


async def tab_through(page: Page, address: str) -> list[str]:
    """Press Tab through a page; returns what was not reached, or not seen while it had the focus."""
    await page.evaluate("document.activeElement.blur()")
    faults = list[str]()
    while True:
        await page.keyboard.press("Tab")
        if (unseen := await page.evaluate(FOCUSED)) is None:
            break
        faults += unseen
    missed = f"({FOCUSABLE})().filter((one) => !one.isReached).map((one) => one.outerHTML.slice(0, 90))"
    faults += [f"{html} is not reached" for html in await page.evaluate(missed)]
    return [f"{address}: {fault}" for fault in faults]
