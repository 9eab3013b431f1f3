#!/usr/bin/env bash
# agno 3.1.10, strands-agents 1.62.0, langchain-core 1.8.3 and pydantic-ai-slim 2.68.0 (PyPI). 2026-11-28.
# A plain function with arguments `agent`, `team`, `files` and `callbacks`, all texts without defaults, becomes a tool.
# Some names are taken for the framework's own objects, whatever their type says, and are left out of the schema that
# the model gets, without a warning: agno hides agent, files and team, strands hides agent, langchain hides callbacks.
# Most would expect: an argument that says `str` is the model's to fill, as in pydantic-ai, or its name is refused.
# Seen: agno hides agent, files, team; strands hides agent; langchain hides callbacks; pydantic-ai hides none
# Why an agent runtime meets it: its tools delegate, assign and send: `agent`, `team` and `files` are what they are
# called with. The model cannot say whom; the function gets an object of the framework in place of a text, or fails.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import inspect


def assign(agent: str, team: str, files: str, callbacks: str) -> str:
    """Assign work to an agent of a team."""
    return agent


def agno():
    from agno.tools.function import Function

    return Function.from_callable(assign).parameters


def strands():
    from strands import tool

    return tool(assign).tool_spec["inputSchema"]["json"]


def langchain():
    from langchain_core.tools import tool

    return tool(assign).tool_call_schema.model_json_schema()


def pydantic_ai():
    from pydantic_ai import Tool

    return Tool(assign).function_schema.json_schema


for framework in (agno, strands, langchain, pydantic_ai):
    offered = framework()["properties"]
    hidden = [name for name in sorted(inspect.signature(assign).parameters) if name not in offered]
    print(f"{framework.__name__} hides {', '.join(hidden) or 'none'}")
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check agno==3.1.10 strands-agents==1.62.0 langchain-core==1.8.3 \
    pydantic-ai-slim==2.68.0
seen=$(timeout 90 v/bin/python t.py 2>/dev/null)
echo "seen:"; echo "$seen"
expected="agno hides agent, files, team
strands hides agent
langchain hides callbacks
pydantic_ai hides none"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
