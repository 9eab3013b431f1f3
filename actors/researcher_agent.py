"""researcher-agent: finds out what is true, from pages, registries and repositories that it has read."""

import re

from meshwright import Agent, Capability, Task
from meshwright.toolsets.research import ResearchTools

COMPLEX = 0.5
LONG_WORDS = 120
WEIGHING = re.compile(
    r"\b(compar\w+|versus|vs|trade-?offs?|pros and cons|alternatives?|implications?|evaluat\w+|assess\w*"
    r"|analy[sz]\w+|recommend\w*|strateg\w+|should (?:we|i)|why)\b",
    re.IGNORECASE,
)


class ResearcherAgent(Agent):
    """Answers questions from sources that it has read, and names them.

    It reads the open web, so it reaches no files: what strangers write there must not lead to them.
    """

    agent_id = "researcher-agent"
    capabilities = (
        Capability("deep-research", preferred=True),
        Capability("technical-research", weight=0.9),
        Capability("market-analysis", weight=0.8),
        Capability("tech-consultation", weight=0.5),
    )
    toolsets = (ResearchTools,)

    def tags(self, task: Task) -> list[str]:
        """Complex questions go to a strong model, all others to a cheap one."""
        return ["research", "expensive" if complexity(task.text) > COMPLEX else "cheap"]


def complexity(text: str) -> float:
    """How much a request asks for, from 0 (look something up) to 1; no sign of it makes another weaker.

    Its signs: its length (120 words are as complex as can be), each question after the first (0.4),
    and each word that asks for weighing and not for facts, such as "compare" or "why" (0.6).
    """
    length = min(len(text.split()) / LONG_WORDS, 1.0)
    more_questions = max(text.count("?") - 1, 0)
    weighing = len(WEIGHING.findall(text))
    return 1 - (1 - length) * 0.6**more_questions * 0.4**weighing
