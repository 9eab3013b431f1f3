"""Whatever a file or a text holds that the mesh reads: it is read, or refused with an error of ours.

The time, the number and the chance are those of test_fuzz.py.
"""

import json
import random
import re
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from meshwright.agents.prompts.prompt import parse_prompt
from meshwright.core.errors import ConfigError, InvalidInput
from meshwright.edges.bridge import hook, sender
from meshwright.models.config import read_config
from meshwright.parts.schedules.times import ScheduleSpec, due_times
from tests.support.fuzz import CPU_SECONDS, TIMEOUT, body, mutated, torn, turns
from tests.support.mqtt_broker import ROOT
from tests.support.settings import load_settings

pytestmark = pytest.mark.timeout(TIMEOUT)
FIELDS = ("*", "0", "7", "1-5", "*/15", "L", "31", "2", "MON", "?", "0-59/0", "60", "1,2,3", "1#5", "29", "W")


def read_prompt(data: bytes, folder: Path) -> None:
    parse_prompt("x", data, "x.prompt")


def read_models(data: bytes, folder: Path) -> None:
    path = folder / "litellm_config.yaml"
    path.write_bytes(data)
    read_config(path)


def read_settings(data: bytes, folder: Path) -> None:
    (folder / "mesh.toml").write_bytes(data)
    load_settings(folder)


PROMPT = (ROOT / "prompts" / "simple-agent.prompt").read_bytes()
MODELS = (ROOT / "litellm_config.yaml").read_bytes()
TOML = b"""
data_dir = ".mesh"
[http]
port = 8000
allowed_hosts = ["mesh.example.com"]
[tenants]
max_open_tasks = 100
[tenants.acme]
tasks_per_minute = 60
[oidc]
issuer = "https://login.example.com"
audience = "mesh"
roles = { "mesh-ops" = ["operator"] }
[[mqtt.clients]]
user = "ada"
tenant = "acme"
[channels.support]
kind = "http"
secret = "whsec_a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
url = "https://chat.example.com/in"
persona = { name = "Mira", role = "support" }
[[ledger.budgets]]
name = "research"
scope = "agent"
limit_usd = "5.00"
window = "day"
[webhooks.sources.github]
kind = "github"
secret = "a secret"
[[webhooks.rules]]
source = "github"
match = { event = "issues" }
agent = "echo"
text = "{{issue.title}}"
[[approvals.rules]]
tool = "deploy"
[[schedules.jobs]]
id = "digest"
cron = "0 7 * * 1-5"
zone = "Europe/Berlin"
task = { agent_id = "digest-agent" }
"""


@pytest.mark.parametrize(
    ("read", "example"), [(read_prompt, PROMPT), (read_models, MODELS), (read_settings, TOML)]
)
def test_files(
    read: Callable[[bytes, Path], None], example: bytes, tmp_path: Path, chance: random.Random
) -> None:
    read(example, tmp_path)
    for _ in turns(read.__name__, 0.03):
        data, began = torn(chance, example), time.process_time()
        try:
            read(data, tmp_path)
        except ConfigError as error:
            assert str(error)
        except Exception as error:
            raise AssertionError(f"{error!r} at {data!r}") from error
        assert time.process_time() - began < CPU_SECONDS, data


def test_schedules(chance: random.Random) -> None:
    now = datetime(2030, 3, 30, tzinfo=UTC)
    for _ in turns("schedules", 0.03):
        cron = " ".join(chance.choice(FIELDS) for _ in range(chance.choice((5, 5, 5, 5, 4, 6, 7))))
        spec: Any = {"cron": cron, "zone": "Europe/Berlin", "task": {"agent_id": "x"}, "until": None}
        if chance.random() < 0.5:
            spec = mutated(chance, spec)
        if chance.random() < 0.2 and isinstance(spec, dict):
            spec["cron"] = torn(chance, cron.encode()).decode("latin-1")
        began = time.process_time()
        try:
            checked = ScheduleSpec.model_validate_json(json.dumps(spec)).checked(now)
            list(islice(due_times(checked, now, now), 3))
        except (ValidationError, InvalidInput):
            pass
        except Exception as error:
            raise AssertionError(f"{error!r} at {spec!r}") from error
        assert time.process_time() - began < CPU_SECONDS, spec


def test_events_of_the_bridge(tmp_path: Path, chance: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("os.umask", lambda mask: mask)
    example = {
        "session_id": "5d1c",
        "hook_event_name": "PreToolUse",
        "cwd": str(tmp_path),
        "transcript_path": str(tmp_path / "none"),
        "model": {"id": "opus"},
        "tool_name": "Bash",
        "tool_input": {"command": "ls", "env": [{"API_KEY": "sk-ant-api03-abcdefghij0123456789"}]},
    }
    count = 0
    for _ in turns("bridge", 0.03):
        count += 1
        data = body(chance, example)
        if chance.random() < 0.05:
            data = chance.choice((b"[" * 100_000, b'{"session_id": "\\ud800"}', b"9" * 5_000, b""))
        hook._store(str(tmp_path), data, time.time())
    with closing(sqlite3.connect(tmp_path / sender.STORE)) as store:
        rows = store.execute("SELECT document FROM claude_events").fetchall()
    assert len(rows) == count, "each is stored"
    for (text,) in rows:
        assert not re.search(r"(?<!\w)sk-ant-api03-[a-z0-9]{8}", text), text
        topic = sender.bridge_topic("claude/progress", json.loads(text))
        assert re.fullmatch(r"claude/progress/[^/+#\x00-\x1f\x7f-\x9f]+/[^/+#\x00-\x1f\x7f-\x9f]+", topic), (
            topic
        )
        topic.encode()
