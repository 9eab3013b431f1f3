"""Renders a page with Chromium, within the box: the program that the toolset `design` runs there.

Run as `python3 -c SOURCE ORDER` in the tree; ORDER is JSON, the result is JSON in the file `result` of it. It
imports nothing of ours, since the box does not have it. The browser gets every file from here: a request for
the page's own host is answered from the folder `site`, all others fail, so that a page needs no server and
reaches none.
"""

from __future__ import annotations

import base64
import fcntl
import json
import mimetypes
import os
import select
import subprocess
import sys
import tempfile
import time
from typing import Any
from urllib.parse import unquote, urlsplit

_ORIGIN = "https://page.test"
_FLAGS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions"),
    *("--disable-sync", "--disable-dev-shm-usage", "--force-color-profile=srgb"),
    "--no-sandbox",  # its own would take the namespaces that the box refuses; the box is the sandbox
)
_QUIET_SECONDS = 0.4  # without a request, after which a page counts as loaded
_MAX_SETTLE_SECONDS = 10.0
_CHUNK_BYTES = 1 << 16
_MAX_FILE_BYTES = 50_000_000
_MAX_NOTES, _MAX_NOTE_CHARS = 20, 300
_MAX_HEIGHT = 8_000
_MAX_PICTURE_CHARS = 1_800_000  # of a picture in base64; a larger one is made again as JPEG
_MAX_LINES, _MAX_DEPTH, _MAX_NAME_CHARS = 150, 20, 80
_NAMED = frozenset(
    (
        *("button", "link", "textbox", "searchbox", "combobox", "listbox", "checkbox", "radio", "switch"),
        *("slider", "spinbutton", "tab", "menuitem", "image", "dialog", "iframe"),
    )
)
_SILENT = frozenset(("none", "generic", "InlineTextBox", "LineBreak", "ScrollableArea", "ignored"))


class _Broken(Exception):
    """The browser has ended, or the time is over."""


class Browser:
    """A Chromium, to which this talks by a pair of pipes: JSON messages, each ended by a null character."""

    def __init__(self, program: str, site: str, seconds: float) -> None:
        self.notes: list[str] = []
        """Errors of the page's scripts, and files that it asked for and did not get."""
        self.loaded = False
        self._ends_at = time.monotonic() + seconds
        self._site = os.path.realpath(site)
        self._last = 0
        self._heard_at = time.monotonic()
        self._session = ""
        self._unread = b""
        self._start(program)

    def open(self, path: str, *, dark: bool) -> None:
        """Load a page, and wait until it asks for nothing more."""
        target_id = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target_id, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM", "Accessibility"):
            self.call(f"{domain}.enable")
        self.call("Fetch.enable", patterns=[{"urlPattern": "*"}])
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[scheme, still])
        self.resize(1280, 800)
        self.call("Page.navigate", url=f"{_ORIGIN}/{path}")
        while not self.loaded:
            self._take(self._message(None))
        self.settle()

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window, in pixels of CSS."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def settle(self) -> None:
        """Wait until nothing was asked for during a moment, at most ten seconds, and what came is drawn."""
        self._heard_at = time.monotonic()
        ends_at = self._heard_at + _MAX_SETTLE_SECONDS
        while (remaining := min(self._heard_at + _QUIET_SECONDS, ends_at) - time.monotonic()) > 0:
            self._take(self._message(remaining))
        drawn = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.evaluate(f"document.fonts.ready.then(() => {drawn}).then(() => 0)")

    def evaluate(self, source: str, context: int | None = None) -> Any:
        """The value of an expression, in the page's own world or another."""
        where = {} if context is None else {"contextId": context}
        options = {"awaitPromise": True, "returnByValue": True}
        reply = self.call("Runtime.evaluate", expression=source, **options, **where)
        if "exceptionDetails" in reply:
            raise _Broken(f"the page cannot be examined: {_exception(reply['exceptionDetails'])}")
        return reply["result"].get("value")

    def apart(self) -> int:
        """A world of scripts that sees the page's elements, but none of what its scripts have replaced."""
        frame = self.call("Page.getFrameTree")["frameTree"]["frame"]["id"]
        return self.call("Page.createIsolatedWorld", frameId=frame)["executionContextId"]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command. Raises _Broken."""
        number = self._send(method, params)
        while True:
            message = self._message(None)
            if message.get("id") == number:
                if "error" in message:
                    raise _Broken(f"{method}: {message['error'].get('message')}")
                return message["result"]
            self._take(message)

    def _start(self, program: str) -> None:
        ours, theirs = os.pipe(), os.pipe()
        self._reading, self._writing = theirs[0], ours[1]
        # The browser reads from 3 and writes to 4, which the ends of the pipes may be already.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (ours[0], theirs[1])]
        profile = tempfile.mkdtemp(prefix="profile-")
        shell = f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}'
        command = ["bash", "-c", shell, "browser", program, *_FLAGS, f"--user-data-dir={profile}"]
        quiet = subprocess.DEVNULL
        subprocess.Popen([*command, "about:blank"], pass_fds=ends, stdin=quiet, stdout=quiet, stderr=quiet)
        for end in (*ends, ours[0], theirs[1]):
            os.close(end)

    def _send(self, method: str, params: dict[str, Any]) -> int:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session and not method.startswith("Target."):
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        try:
            while data:
                data = data[os.write(self._writing, data) :]
        except BrokenPipeError:
            raise _Broken("the browser has ended") from None
        return self._last

    def _message(self, seconds: float | None) -> dict[str, Any]:
        """The next message; an empty one where none came within the seconds."""
        while b"\0" not in self._unread:
            remaining = self._ends_at - time.monotonic()
            wait = remaining if seconds is None else min(remaining, seconds)
            if not select.select([self._reading], [], [], max(wait, 0.0))[0]:
                if remaining <= 0:
                    raise _Broken("the page does not come to rest")
                if seconds is not None:
                    return {}
                continue
            chunk = os.read(self._reading, _CHUNK_BYTES)
            if not chunk:
                raise _Broken("the browser does not start, or has ended")
            self._unread += chunk
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def _take(self, message: dict[str, Any]) -> None:
        about = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self.loaded = True
            case "Fetch.requestPaused":
                self._heard_at = time.monotonic()
                self._answer(about["requestId"], about["request"]["url"])
            case "Runtime.exceptionThrown":
                self._note(_exception(about["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if about["type"] in ("error", "assert"):
                self._note(
                    " ".join(str(part.get("value", part.get("description"))) for part in about["args"])
                )
            case "Log.entryAdded" if about["entry"]["level"] == "error":
                if about["entry"].get("source") != "network":  # `_answer` has said so
                    self._note(about["entry"]["text"])
            case "Page.javascriptDialogOpening":
                self._send("Page.handleJavaScriptDialog", {"accept": False})
            case _:
                pass

    def _answer(self, request: str, url: str) -> None:
        parts = urlsplit(url)
        if f"{parts.scheme}://{parts.netloc}" != _ORIGIN:
            self._note(f"not loaded, since it lies outside: {url}")
            self._send("Fetch.failRequest", {"requestId": request, "errorReason": "BlockedByClient"})
            return
        data, status, kind = self._file(unquote(parts.path).lstrip("/"))
        if status != 200 and not parts.path.endswith("/favicon.ico"):
            self._note(f"not found: {unquote(parts.path)}")
        headers = [{"name": "Content-Type", "value": kind}, {"name": "Cache-Control", "value": "no-store"}]
        body = base64.b64encode(data).decode()
        reply = {"requestId": request, "responseCode": status, "responseHeaders": headers, "body": body}
        self._send("Fetch.fulfillRequest", reply)

    def _file(self, path: str) -> tuple[bytes, int, str]:
        """A file of the site, its status and its kind."""
        place = os.path.realpath(os.path.join(self._site, path))
        if os.path.isdir(place):
            place = os.path.join(place, "index.html")
        is_inside = place.startswith(f"{self._site}{os.sep}")
        try:
            if is_inside and os.path.isfile(place) and os.path.getsize(place) <= _MAX_FILE_BYTES:
                with open(place, "rb") as file:
                    kind = mimetypes.guess_type(place)[0] or "application/octet-stream"
                    text = kind.startswith("text/") or kind == "application/javascript"
                    return file.read(), 200, f"{kind}; charset=utf-8" if text else kind
        except (OSError, ValueError):
            pass
        return b"", 404, "text/plain"

    def _note(self, text: str) -> None:
        text = text[:_MAX_NOTE_CHARS]
        if text not in self.notes and len(self.notes) < _MAX_NOTES:
            self.notes.append(text)


def _exception(details: dict[str, Any]) -> str:
    text = details.get("exception", {}).get("description") or details.get("text", "")
    return str(text)[:_MAX_NOTE_CHARS]


def _audited(browser: Browser, source: str, widths: list[int]) -> dict[str, Any]:
    """The findings at each width, and the page as those hear it who do not see it."""
    findings: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    for width in widths:
        browser.resize(width, 800)
        browser.settle()
        facts = browser.evaluate(source, browser.apart())
        findings += [{**finding, "width": width} for finding in facts.pop("findings")]
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    findings += _unnamed(browser, nodes)
    return {**facts, "findings": findings, "heard": _heard(nodes)}


def _unnamed(browser: Browser, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Controls and pictures without a name."""
    findings: list[dict[str, Any]] = []
    for node in nodes:
        role = _value(node, "role")
        if role in _NAMED and not node.get("ignored") and not _value(node, "name").strip():
            findings.append(
                {"rule": "name", "element": _element(browser, node), "detail": f"{role} has no name"}
            )
    return findings[:_MAX_NOTES]


def _element(browser: Browser, node: dict[str, Any]) -> str:
    described = browser.call("DOM.describeNode", backendNodeId=node["backendDOMNodeId"])["node"]
    pairs = described.get("attributes", [])
    attributes = dict(zip(pairs[::2], pairs[1::2], strict=False))
    marks = [f"#{attributes['id']}"] if attributes.get("id") else []
    marks += [f".{name}" for name in attributes.get("class", "").split()[:2]]
    marks += [f'[{name}="{attributes[name][:60]}"]' for name in ("src", "href", "name") if name in attributes]
    return f"{described['nodeName'].lower()}{''.join(marks)}"


def _heard(nodes: list[dict[str, Any]]) -> str:
    """The accessibility tree as lines: the role and the name of each node, deeper ones further in."""
    by_id = {node["nodeId"]: node for node in nodes}
    lines: list[str] = []
    open_nodes = [(node["nodeId"], 0) for node in nodes[:1]]
    while open_nodes and len(lines) < _MAX_LINES:
        name, depth = open_nodes.pop()
        node = by_id.get(name)
        if node is None:
            continue
        role = _value(node, "role")
        is_shown = not node.get("ignored") and role not in _SILENT
        if is_shown:
            text = " ".join(_value(node, "name").split())[:_MAX_NAME_CHARS]
            lines.append(f"{'  ' * min(depth, _MAX_DEPTH)}{role}{f' {json.dumps(text)}' if text else ''}")
        children = [(child, depth + is_shown) for child in node.get("childIds", [])]
        open_nodes += reversed([] if role == "StaticText" else children)
    return "\n".join(lines) + ("\n[there is more]" if open_nodes else "")


def _value(node: dict[str, Any], field: str) -> str:
    return str(node.get(field, {}).get("value", ""))


def _picture(browser: Browser, width: int, height: int, *, whole: bool) -> dict[str, Any]:
    """A picture of the window, or of the whole page as far as it is shown."""
    browser.resize(width, height)
    browser.settle()
    size = browser.call("Page.getLayoutMetrics")["cssContentSize"]
    if whole:
        height = max(1, min(int(size["height"]), _MAX_HEIGHT))
        browser.resize(width, height)
        browser.settle()
    data = browser.call("Page.captureScreenshot", format="png")["data"]
    kind = "png"
    if len(data) > _MAX_PICTURE_CHARS:
        data, kind = browser.call("Page.captureScreenshot", format="jpeg", quality=70)["data"], "jpg"
    facts = {"width": width, "height": height, "page_height": int(size["height"]), "kind": kind}
    return {**facts, "picture": data}


def main(order: dict[str, Any]) -> None:
    """Do what an order says, and write the result."""
    result: dict[str, Any] = {}
    browser = None
    try:
        browser = Browser(order["program"], order["site"], order["seconds"])
        result["browser"] = browser.call("Browser.getVersion")["product"]
        browser.open(order["path"], dark=order["dark"])
        if order["audit"]:
            result |= _audited(browser, order["audit"], order["widths"])
        else:
            result |= _picture(browser, order["widths"][0], order["height"], whole=order["whole"])
    except _Broken as error:
        result["error"] = str(error)
    result["problems"] = browser.notes if browser else []
    with open(order["result"], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
