"""The agents that come with Meshwright, their prompts, and scripts of their models on a small repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from meshwright import Agent
from meshwright.agents.loader import load_agents
from meshwright.testing import ScriptedModel, tool_call

ROOT = Path(__file__).parents[2]
MANAGER, CODER, TESTER, ARCHITECT = "project-manager", "api-coder", "qa-tester", "architect-agent"
GOAL = {"title": "Add numbers", "goal": "add(2, 3) is 5.", "done_when": "test_calc.py passes.", "tests": []}
PART = {"name": "fix", "capability": "bug-fix", "text": "calc.add subtracts. Correct it."}
FIX = tool_call("edit", path="calc.py", old="a - b", new="a + b")


def shipped(*agent_ids: str) -> list[type[Agent]]:
    """The classes of some agents, or of all."""
    loaded = {agent.agent_id: agent for agent in load_agents(ROOT / "actors")}
    return [loaded[agent_id] for agent_id in agent_ids] if agent_ids else list(loaded.values())


def goal(**fields: Any) -> str:
    """A goal as the model of the project-manager states it."""
    return json.dumps({**GOAL, **fields})


def plan(*parts: dict[str, Any]) -> str:
    """A plan as the model of the project-manager makes it, by default of one part."""
    return json.dumps({"parts": list(parts) or [PART]})


def verdict(*findings: str, evidence: tuple[str, ...] = ("test_calc.py",)) -> str:
    """The verdict of a tester, which passes where there are no findings."""
    return json.dumps({"passed": not findings, "evidence": list(evidence), "findings": list(findings)})


def review(*findings: str) -> str:
    """The review of an agent, which approves where there are no findings."""
    return json.dumps({"approved": not findings, "findings": list(findings)})


def script_of_a_fix(model: ScriptedModel) -> None:
    """Have the job done in one round, up to the question whether to commit it."""
    model.replies(goal(), plan(), to=MANAGER)
    model.replies(tool_call("run_tests"), tool_call("view", path="calc.py"), FIX, "Corrected.", to=CODER)
    model.replies(tool_call("run_tests"), tool_call("diff"), verdict(), to=TESTER)
    model.replies(tool_call("diff"), review(), to=ARCHITECT)
