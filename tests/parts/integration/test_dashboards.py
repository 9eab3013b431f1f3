"""The alert rules and the dashboard fit the metrics of a mesh, and alert where they should."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshwright import Agent, Capability
from meshwright.testing import ScriptedModel
from tests.support.http_mesh import http_mesh

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = DEPLOY / "grafana" / "meshwright.json"
NAME = re.compile(r"\b(?:meshwright|gen_ai_client)_[a-z0-9_]+")
PARTS_OF_HISTOGRAMS = re.compile(r"_(?:bucket|sum|count)$")


class Clerk(Agent):
    """Answers what its model says."""

    agent_id = "clerk"
    capabilities = (Capability("clerking"),)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["promtool", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=RULES.parent)


def expressions() -> list[str]:
    """All that rules and dashboard ask Prometheus."""
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    dashboard = json.loads(DASHBOARD.read_text())
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    variables: list[Any] = dashboard["templating"]["list"]
    asked = [variable["query"]["query"] for variable in variables if variable["type"] == "query"]
    return [*(rule["expr"] for rule in group["rules"]), *(target["expr"] for target in targets), *asked]


@pytest.mark.needs("promtool")
@pytest.mark.parametrize(
    "arguments", ["check rules alerts.yaml", "check config prometheus.yaml", "test rules alerts_test.yaml"]
)
def test_prometheus_accepts_the_rules_and_alerts_as_they_say(arguments: str) -> None:
    checked = promtool(*arguments.split())
    assert checked.returncode == 0, checked.stdout + checked.stderr


async def test_rules_and_dashboard_ask_for_metrics_that_a_mesh_has(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, Clerk, script=ScriptedModel("Done.")) as api:
        await api.finished(agent_id="clerk", payload={"text": "x"})
        text = await (await api.session.get("/metrics")).text()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    asked = {name for expression in expressions() for name in NAME.findall(expression)}
    histograms = {PARTS_OF_HISTOGRAMS.sub("", name) for name in asked if name not in kinds}
    assert len(asked) > 15
    assert {kinds.get(name) for name in histograms} == {"histogram"}, histograms - kinds.keys()


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24 and taken.setdefault((x, y), panel["title"]) == panel["title"]
