"""Answers in Markdown: headings, lists, tables, code and links, and nothing that a text could do besides."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Locator, expect

from meshwright import Agent, Capability, Run
from meshwright.console.markdown import rendered
from tests.support.http_mesh import http_mesh
from tests.support.page import reader
from tests.support.page_walk import Look, judge

pytestmark = pytest.mark.needs("chromium")
REPORT = """\
## Report of the night

There are **17** orders, _two_ of them `late`; see snake_case_name.
The [list](https://good.example@evil.example/x?y=1), https://docs.example/a.

1. Read
   - the file
   - the *log*
2. Write

| Service | Note |
|---|---:|
| checkout | down since **21:40**, a \\| b |

> quoted

~~~python
x = "**2**"
~~~
"""
HOSTILE = """\
# <img src=x onerror=alert(1)>
![pixel](https://tracker.example/p.png) [run](javascript:alert(1)) [data](data:text/html,x)
[//](//evil.example) <script>alert(2)</script>
**<b onclick='x()'>bold</b>** [safe\u202e](https://evil.example) \\*not strong\\*
"""


class Writer(Agent):
    """Answers what it was asked."""

    agent_id = "writer"
    capabilities = (Capability("writing"),)
    remembers = False

    async def run(self, run: Run) -> str:
        return run.task.text


@asynccontextmanager
async def result_of(
    tmp_path: Path, browser: Browser, text: str, requests: list[str]
) -> AsyncIterator[Locator]:
    """The result of a task with that text, on its page."""
    async with http_mesh(tmp_path, Writer) as api:
        task_id = await api.finished(agent_id="writer", payload={"text": text})
        async with reader(browser, f"{api.url}/#/task/{task_id}") as person:
            person.page.on("request", lambda request: requests.append(request.url))
            await expect(person.page.get_by_role("heading", name="Result")).to_be_visible()
            yield person.page.locator(".written").first
            assert person.complaints == []


async def test_an_answer_in_markdown_is_rendered_and_can_be_read_raw(
    tmp_path: Path, browser: Browser
) -> None:
    async with result_of(tmp_path, browser, REPORT, []) as result:
        page = result.page
        await expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(r"^Report of the night"))
        await expect(result.get_by_role("heading", level=4)).to_have_text("Report of the night")
        await expect(result.locator("strong")).to_have_text(["17", "21:40"])
        await expect(result.locator("em")).to_have_text(["two", "log"])
        await expect(result.locator("code")).to_have_text(["late"])
        await expect(result.locator("ol > li")).to_have_count(2)
        await expect(result.locator("ol ul > li")).to_have_text(["the file", "the log"])
        await expect(result.get_by_role("cell")).to_have_text(["checkout", "down since 21:40, a | b"])
        await expect(result.locator("blockquote")).to_have_text("quoted")
        await expect(result.locator("pre")).to_have_text('x = "**2**"')
        await expect(result.get_by_text("snake_case_name")).to_be_visible()
        await expect(result.get_by_role("link")).to_have_text(["list", "https://docs.example/a"])
        await expect(result.get_by_text("list (evil.example)")).to_be_visible()
        for width in (1280, 390):
            assert await judge(page, "#/task", Look(width)) == []
        raw = result.get_by_role("button", name="Raw")
        await raw.click()
        await expect(result.locator("pre")).to_have_text(REPORT.strip())
        await expect(raw).to_have_attribute("aria-pressed", "true")


async def test_markdown_brings_no_markup_picture_or_foreign_address(tmp_path: Path, browser: Browser) -> None:
    requests = list[str]()
    async with result_of(tmp_path, browser, HOSTILE, requests) as result:
        await expect(result.get_by_role("heading")).to_have_text("<img src=x onerror=alert(1)>")
        await expect(result.get_by_text("<script>alert(2)</script>")).to_be_visible()
        await expect(result.locator("strong")).to_have_text("<b onclick='x()'>bold</b>")
        await expect(result.get_by_role("link")).to_have_text(["pixel", r"safe\u202e"])
        for link in await result.get_by_role("link").all():
            await expect(link).to_have_attribute("rel", "noopener noreferrer")
        for address in ("javascript:alert(1)", "data:text/html,x", "//evil.example"):
            await expect(result.get_by_text(f"({address})")).to_be_visible()
        await expect(result.get_by_text("*not strong*")).to_be_visible()
        await expect(result.locator("img, script, b, iframe")).to_have_count(0)
    assert [url for url in requests if "example" in url] == []


async def test_odd_texts_of_many_characters_do_not_hold_the_page_up(tmp_path: Path, browser: Browser) -> None:
    odd = ("**", "[", "`", "_a", "> ", "- ", "|-", "[x](", "http://", "# a" + " " * 8_000, "*a ", "``a`")
    texts = [(mark * 8_000)[:8_000] for mark in odd]
    deep = "\n".join(f"{'  ' * depth}- a" for depth in range(60))
    text = "\n\n".join(["**odd**", *texts, deep])
    assert len(text) < 100_000  # a longer text is shown as it is
    async with result_of(tmp_path, browser, text, []) as result:
        await expect(result.locator("strong").first).to_have_text("odd")
        await result.get_by_role("button", name="Raw").click()
        await expect(result.locator("pre")).to_contain_text("**odd**")


CORPUS = (
    REPORT,
    HOSTILE,
    "# One\n## Two ##\n#Not one\n####### Seven",
    "- a\n  - b\n    - c\n  - d\n- e\n\n1. one\n   1. two\n2. three\n\n* x\n+ y",
    "| a | b |\n|:--|--:|\n| 1 | **2** |\n| `x \\| y` | |\n| one too many | 2 | 3 |\n\nafter",
    "| not | a table |\nplain",
    "> a\n> > b\n> - c\n\nd",
    "```\nfoo **x**\n\n  bar\n```\n~~~ python\n```\n~~~",
    "```\nnever closed **x**",
    "[a](https://docs.example/x_(y)) [b](mailto:a@b.example) [c](/relative) [d](#part) ![e](https://p.example/e.png)",
    "https://a.example/x?y=1&z=2. <https://b.example> www.c.example",
    "**bold *and em* text** __two__ ~~gone~~ *a* _b_ a*b*c snake_case_x ** not ** `a` ``b ` c`` \\*x\\*",
    "<table><tr><td>x</td></tr></table> <!-- hidden --> &lt;b&gt; &amp;",
    "bell\x07 escape\x1b[31mred\x1b[0m null\x00 right\u202eleft zero\u200bwidth\r\nnext",
    "**x**\n\n---\n\n***\n\nlast line\nwith a break  \nhere",
    "- **a**\n\n  second paragraph\n\n  ```\n  code\n  ```\n- b",
    "1. a\n\n2. b\n\n5) c",
    "Über **größe** 日本語 | 表 |\n\n| 名 | x |\n|---|---|\n| 日本 | é |",
)


ADDRESS = re.compile(r"\(https?://([^/()\s]+)(?:[^\s()]|\([^\s()]*\))*\)")
"""A link at a terminal has its address, on the page its host."""


def words_of(text: str) -> list[str]:
    """The words that somebody reads, without numbers and marks of lists."""
    lines = [re.sub(r"^[\s│>]*(?:(?:\d+[.)]|[-*+•])\s+)*", "", line) for line in text.splitlines()]
    return re.findall(r"[\w.:/@()\[\]{}<>*`~\\&;#=?!-]*\w[\w.:/@()\[\]{}<>*`~\\&;#=?!-]*", "\n".join(lines))


async def test_page_and_terminal_show_the_same_words_of_each_text(tmp_path: Path, browser: Browser) -> None:
    differs = dict[str, tuple[list[str], list[str]]]()
    async with http_mesh(tmp_path, Writer) as api, reader(browser, api.url) as person:
        for text in (f"**m**\n\n{text}" for text in CORPUS):  # a text without marks is shown as it is
            task_id = await api.finished(agent_id="writer", payload={"text": text})
            await person.page.goto(f"{api.url}/#/task/{task_id}")
            outcome = await api.client.outcome(task_id)
            await expect(person.page.get_by_role("heading", name="Result")).to_be_visible()
            written = person.page.locator(".written").first
            await expect(written).to_be_visible()
            shown = words_of((await written.inner_text()).removeprefix("Raw"))
            plain = re.sub(r"\x1b\[[\d;]*m", "", rendered(str(outcome.answer), 300))
            drawn = words_of(ADDRESS.sub(r"(\1)", plain))
            if shown != drawn:
                differs[text] = shown, drawn
    assert not differs
