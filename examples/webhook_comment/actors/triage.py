"""triage: says to which team an issue belongs."""

from meshwright import Agent, Capability, Run

TEAMS = {"login": "identity", "invoice": "billing", "slow": "platform"}


class Triage(Agent):
    """Says to which team an issue belongs; needs no model."""

    agent_id = "triage"
    capabilities = (Capability("triage"),)

    async def run(self, run: Run) -> str:
        """Look for words that a team knows."""
        words = run.task.text.casefold()
        found = sorted({team for word, team in TEAMS.items() if word in words})
        return f"This is for: {', '.join(found) or 'the duty'}."
