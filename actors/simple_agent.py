"""simple-agent: the smallest agent, the one to copy."""

from meshwright import Agent, Capability


class SimpleAgent(Agent):
    """Answers general questions with what it is given, without tools."""

    agent_id = "simple-agent"
    capabilities = (Capability("general-query"),)
    remembers = False
