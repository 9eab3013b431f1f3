"""Work for several agents at once: python fan_out.py, then mesh ask editor "one. two. three."."""

from meshwright import Agent, Capability, Delegation, Run, run_mesh


class Counter(Agent):
    """Counts the words of a sentence."""

    agent_id = "counter"
    capabilities = (Capability("counting"),)

    async def run(self, run: Run) -> dict[str, int]:
        """Count them."""
        return {"words": len(run.task.text.split())}


class Editor(Agent):
    """Has each sentence counted by a task of its own, side by side, and adds up."""

    agent_id = "editor"
    capabilities = (Capability("editing"),)
    delegates_to = ("counting",)

    async def run(self, run: Run) -> str:
        """Give a task for each sentence, wait for all without a slot, and add up."""
        sentences = [part.strip() for part in run.task.text.split(".") if part.strip()]
        wanted = [Delegation(capability="counting", text=part, shape=dict[str, int]) for part in sentences]
        counts = [found["words"] for found in await run.delegate_all(wanted)]
        return f"{sum(counts)} words in {len(sentences)} sentences"


if __name__ == "__main__":
    run_mesh()
