"""Lines of the log: levels, the task that a line is about, both forms, and no secrets."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextvars import copy_context
from datetime import datetime
from pathlib import Path

import pytest

from meshwright import Agent, Capability
from meshwright.agents.run.run import Run
from meshwright.console.process import log_commands, log_service, say
from meshwright.core.errors import ConfigError
from meshwright.core.logs import log_about, parse_levels
from meshwright.testing import mesh_for
from tests.support.settings import load_settings

KEY = "sk-" + "a1B2" * 8
NAMES = ("", "meshwright", "meshwright.mesh", "uvicorn", "noisy")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave handlers and levels as they were."""
    root = logging.getLogger()
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in NAMES}
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


class Noisy(Agent):
    """Logs in its run, in a branch of it and in a thread."""

    agent_id = "noisy"
    capabilities = (Capability("noise", preferred=True),)

    async def run(self, run: Run) -> str:
        logger = logging.getLogger("noisy")
        logger.warning("in the run")
        await asyncio.gather(self.branch(logger))
        return "done"

    async def branch(self, logger: logging.Logger) -> None:
        await asyncio.to_thread(logger.error, "in a thread")


async def test_lines_of_a_run_name_its_task_and_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_service(tmp_path, "", "json")
    async with mesh_for(Noisy) as mesh:
        outcome = await mesh.ask("noisy", "x")
        [accepted] = mesh.events("task.accepted")
    logging.getLogger("noisy").error("after it")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    named = {"task_id": outcome.task_id, "trace_id": accepted.trace_id}
    assert [(line["message"], line["level"], line["logger"]) for line in lines] == [
        ("in the run", "warning", "noisy"),
        ("in a thread", "error", "noisy"),
        ("after it", "error", "noisy"),
    ]
    assert [line.items() >= named.items() for line in lines] == [True, True, False]
    assert "task_id" not in lines[2]
    assert all(datetime.fromisoformat(line["time"]).tzinfo for line in lines)


def test_text_has_time_with_zone_level_logger_and_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_service(tmp_path, "", "text")
    say("model: offline")
    context = copy_context()
    context.run(log_about, "T1", "00-abc-def-01")
    context.run(logging.getLogger("noisy").warning, "one\ntwo api_key=%s", KEY)
    greeting, line = capsys.readouterr().err.splitlines()
    assert greeting == "model: offline"
    time, _, rest = line.partition(" ")
    assert datetime.fromisoformat(time).tzinfo is not None
    assert rest == "WARNING noisy: one two api_key=[redacted] (task=T1 trace=abc)"


def test_errors_name_the_file_of_their_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_service(tmp_path, "", "json")
    try:
        raise ValueError(f"refused, with api_key = {KEY}")
    except ValueError:
        logging.getLogger("noisy").exception("it failed")
    line = json.loads(capsys.readouterr().err)
    assert line["message"] == "it failed: ValueError: refused, with api_key = [redacted]"
    assert (line["error"], line["traceback"]) == ("ValueError", str(tmp_path / "last-error.txt"))
    assert KEY not in (tmp_path / "last-error.txt").read_text()


def test_commands_print_their_warnings_without_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_commands(tmp_path)
    logging.getLogger("noisy").info("unseen")
    logging.getLogger("noisy").warning("seen")
    assert capsys.readouterr().err == "mesh: warning: seen\n"


def test_form_is_json_where_stderr_is_no_terminal(tmp_path: Path) -> None:
    assert log_service(tmp_path, "", "auto") == "json"


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("", {"": 30, "meshwright.mesh": 20}),
        ("debug", {"": 30, "meshwright": 10, "meshwright.mesh": 10, "uvicorn": 10}),
        ("error", {"": 40, "meshwright": 40, "meshwright.mesh": 40, "uvicorn": 40}),
        (
            "uvicorn.access=INFO, httpx=error",
            {"": 30, "meshwright.mesh": 20, "uvicorn.access": 20, "httpx": 40},
        ),
        (
            "httpx=debug,warning",
            {"": 30, "meshwright": 30, "meshwright.mesh": 30, "uvicorn": 30, "httpx": 10},
        ),
    ],
)
def test_levels_are_of_the_mesh_or_of_named_loggers(text: str, levels: dict[str, int]) -> None:
    assert parse_levels(text) == levels


@pytest.mark.parametrize("text", ["loud", "=info", "httpx=", "httpx=7", "info=httpx"])
def test_levels_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"log_level: expected debug, .* or LOGGER=LEVEL"):
        load_settings(tmp_path, log_level=text)


def test_libraries_stay_silent_unless_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_service(tmp_path, "debug", "json")
    logging.getLogger("httpcore.http11").debug("send_request_headers authorization: Bearer %s", KEY)
    logging.getLogger("meshwright.models").debug("one call")
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == ["one call"]
