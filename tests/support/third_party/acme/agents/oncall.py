"""Finds the person on call, and pages them."""

from meshwright import Agent, Capability

PROMPT = """\
---
tags: [default]
---
You page whoever is on call.
"""


class OnCall(Agent):
    """Pages whoever is on call."""

    agent_id = "on-call"
    capabilities = (Capability("paging"),)
    toolsets = ("pager",)
    prompt_text = PROMPT
