"""A request of n bytes costs at most some times n: of memory, of disk, of time, and of what is answered."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.http_mesh import TOO_LARGE_AMOUNTS
from tests.support.sqlite_mesh import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")  # else it hides a failure
KIB = 1024
AGENT = "simple-agent"
ANSWER_BYTES, ANSWER_TIMES = 16 * KIB, 8
VIEW_BYTES, VIEW_TIMES = 64 * KIB, 40
DISK_BYTES, DISK_TIMES = 512 * KIB, 60
MEMORY_BYTES, MEMORY_TIMES = 64 * KIB * KIB, 400
TIMES_THE_FLOOR = 100
"""A request may take so many times the processor time of the dearest of some plain ones."""
TICKS = os.sysconf("SC_CLK_TCK")
FLOORS = 20
PATIENCE_SECONDS = 60
TRIES = 4
REST_SECONDS = 0.3
"""A mesh that wrote nothing for so long rests."""
BOUNDED = settings(max_examples=60)


@dataclass
class Meter:
    """A running mesh, and what its requests cost."""

    process: subprocess.Popen[str]
    address: str
    folder: Path
    floor: float = 0.0

    def ask(
        self, method: str, path: str, body: bytes | None = None, accept: str = "*/*"
    ) -> tuple[int, bytes]:
        """The status and the answer."""
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE_SECONDS)
        connection.request(method, path, body, {"Content-Type": "application/json", "Accept": accept})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, answer

    def timed(self, path: str, body: bytes) -> tuple[int, bytes, float]:
        """The status, the answer, and the seconds of the processor that the mesh took."""
        began = self.processor_seconds()
        status, answer = self.ask("POST", path, body)
        return status, answer, self.processor_seconds() - began

    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def check(self, path: str, body: bytes) -> None:
        """Make a request, let its task end, and hold it to the bounds.

        Processor and disk also serve what the mesh did before, such as moving the log of the database into
        it; so a request that takes too much of them is made again, once the mesh rests, and has to take too
        much each time.
        """
        size, memory = len(body), self.peak_memory()
        most_seconds, most_bytes = TIMES_THE_FLOOR * self.floor, DISK_BYTES + DISK_TIMES * size
        for _ in range(TRIES):
            disk = self.disk()
            status, answer, seconds = self.timed(path, body)
            assert status < 500 or b"NoAgentAvailable" in answer, answer[:500]
            assert len(answer) <= ANSWER_BYTES + ANSWER_TIMES * size
            if path == "/tasks" and status == 202:
                self.check_views(json.loads(answer)["task_id"], size)
            written = self.disk() - disk
            assert self.peak_memory() - memory <= MEMORY_BYTES + MEMORY_TIMES * size
            if seconds <= most_seconds and written <= most_bytes:
                return
            self.rest()
        raise AssertionError(f"took {seconds} s of at most {most_seconds}, {written} B of {most_bytes}")

    def rest(self) -> None:
        """Wait until the mesh writes no more of what it did before."""
        before = -1
        while (now := self.disk()) != before:
            before = now
            time.sleep(REST_SECONDS)

    def check_views(self, task_id: str, size: int) -> None:
        """Wait for the end of a task, and hold what the API shows of it to its bound."""
        events = f"/tasks/{task_id}/events"
        views = [self.ask("GET", events, accept="text/event-stream")]  # ends with the task
        views += [self.ask("GET", path) for path in (f"/tasks/{task_id}", events, "/tasks?limit=1")]
        for status, view in views:
            assert status == 200
            assert len(view) <= VIEW_BYTES + VIEW_TIMES * size

    def disk(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def peak_memory(self) -> int:
        """The most bytes that the mesh ever had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * KIB


@pytest.fixture(scope="module")
def meter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meter]:
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc, to see the memory of another process")
    data = tmp_path_factory.mktemp("mesh") / "data"
    command = [sys.executable, "-m", "meshwright.cli", "up", "--port", "0", "--data", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("ready ").strip()
        meter = Meter(process, urlsplit(url).netloc, data)
        plain = json.dumps({"agent_id": AGENT, "payload": {"text": "x " * 50_000}}).encode()
        meter.floor = max(1 / TICKS, *(meter.timed("/tasks", plain)[2] for _ in range(FLOORS)))
        yield meter
        process.send_signal(signal.SIGTERM)


AMOUNTS = st.sampled_from(TOO_LARGE_AMOUNTS) | st.from_regex(
    r"-?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,10})?", fullmatch=True, alphabet="-+.eE0123456789"
)
NUMBERS = AMOUNTS.map(lambda text: text.lstrip("-").lstrip("0") or "0").map(
    lambda text: text if text[0].isdigit() else f"0{text}"
)
"""Numbers as JSON writes them, however large: never read by Python on their way."""
KEYS = st.text(max_size=20)
LONG = st.builds(lambda text, times: text * times, st.text(min_size=1, max_size=5), st.integers(1, 10_000))
TEXTS = (st.text(max_size=50) | LONG).map(json.dumps)
DEEP = st.builds(lambda opens, n: opens[0] * n + "1" + opens[1] * n, st.just(("[", "]")), st.integers(1, 500))
WIDE = st.builds(
    lambda key, n: "{" + ",".join(f"{json.dumps(f'{key}{i}')}:{i}" for i in range(n)) + "}",
    KEYS,
    st.integers(1, 5_000),
)


def joined(pairs: dict[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in pairs.items()) + "}"


def containers(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    lists = st.lists(values, max_size=5).map(lambda parts: f"[{','.join(parts)}]")
    return lists | st.dictionaries(KEYS, values, max_size=5).map(joined)


LEAVES = TEXTS | NUMBERS | DEEP | WIDE | st.sampled_from(["null", "true"])
JSON = st.recursive(LEAVES, containers, max_leaves=8)
PAYLOADS = st.builds(
    lambda text, more: joined({"text": text, **more}), TEXTS, st.dictionaries(KEYS, JSON, max_size=3)
)
FIELDS = {
    "budget_usd": AMOUNTS.map(json.dumps) | NUMBERS,
    "priority": NUMBERS,
    "timeout": NUMBERS,
    "deadline": NUMBERS,
    "thread_id": TEXTS,
    "capability": TEXTS,
}
MESSAGES = TEXTS.map(lambda text: f'[{{"role":"user","content":{text}}}]')
FIXED = {"sender": '"a"', "receiver": '"b"', "project_id": '"c"'}
SHAPES: dict[str, tuple[dict[str, st.SearchStrategy[str]], dict[str, st.SearchStrategy[str]]]] = {
    "/compress": (
        {name: st.just(value) for name, value in FIXED.items()} | {"task_summary": TEXTS},
        {"sender_memories": JSON, "workflow_state": JSON, "priority": NUMBERS, "constraints": JSON},
    ),
    "/complete": (
        {"model": st.sampled_from(['"fast"', '"quality"']), "messages": MESSAGES},
        {"messages": JSON, "max_tokens": NUMBERS, "temperature": NUMBERS, "tenant_id": TEXTS},
    ),
    "/v1/chat/completions": (
        {"model": st.just('"default"'), "messages": MESSAGES},
        {"messages": JSON, "max_tokens": NUMBERS, "metadata": JSON, "tools": JSON, "stop": JSON},
    ),
    "/tasks/none/answer": ({"key": TEXTS, "value": JSON}, {}),
}
"""The required and optional fields of each body."""


def body_of(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """A body with all that it must have and at most one thing more, so that many are accepted."""
    more = [st.just({})]
    more += [value.map(lambda text, name=name: {name: text}) for name, value in optional.items()]
    return st.builds(
        lambda must, may: joined({**must, **may}).encode(), st.fixed_dictionaries(required), st.one_of(more)
    )


@BOUNDED
@example(body=b'{"agent_id":"simple-agent","payload":{"text":"hi"},"budget_usd":"1e20000000"}')
@example(body=b'{"agent_id":"simple-agent","payload":{"text":"hi"},"budget_usd":"1e-1000000"}')
@example(body=b'{"agent_id":"simple-agent","payload":{"n":1e308,"m":' + b"1" * 100_000 + b"}}")
@given(body=body_of({"agent_id": st.just(f'"{AGENT}"'), "payload": PAYLOADS}, FIELDS))
def test_a_task_costs_no_more_than_its_size_allows(meter: Meter, body: bytes) -> None:
    meter.check("/tasks", body)


@pytest.mark.parametrize("path", SHAPES)
def test_any_other_body_costs_no_more_than_its_size_allows(meter: Meter, path: str) -> None:
    @BOUNDED
    @given(body=body_of(*SHAPES[path]))
    def check(body: bytes) -> None:
        meter.check(path, body)

    check()


@BOUNDED
@given(path=st.sampled_from(["/tasks", *SHAPES]), body=JSON.map(str.encode) | st.binary(max_size=2_000))
def test_nonsense_costs_no_more_than_its_size_allows(meter: Meter, path: str, body: bytes) -> None:
    meter.check(path, body)
