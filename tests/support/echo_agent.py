"""An agent that answers with its request, as a file of a project."""

ECHO = '''
"""An agent that says it again."""

from meshwright import Agent, Capability, Run


class Echo(Agent):
    """Says it again."""

    agent_id = "echo"
    capabilities = (Capability("echoing"),)
    remembers = False

    async def run(self, run: Run) -> str:
        return run.task.text
'''
