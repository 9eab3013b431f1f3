"""llm-service: one answer of a model, without an agent; over HTTP it is POST /complete."""

from meshwright import Agent, Capability, Run, Task, ToolFailed


class LlmService(Agent):
    """Answers a task's messages by one call of a model, without tools and memories."""

    agent_id = "llm-service"
    capabilities = (Capability("completion"),)
    remembers = False

    async def run(self, run: Run) -> str:
        """Ask the model once."""
        return await run.ask(conversation(run.task))


def conversation(task: Task) -> str:
    """What is to be answered: `payload.text`, or `payload.messages` as OpenAI writes them."""
    messages = task.payload.get("messages")
    if task.text or not isinstance(messages, list):
        return task.text or refuse()
    texts = [text_of(message) for message in messages]
    return texts[0].partition(": ")[2] if len(texts) == 1 else "\n\n".join(texts) or refuse()


def text_of(message: object) -> str:
    """One message, and who said it."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), str):
        return refuse()
    return f"{message.get('role', 'user')}: {message['content']}"


def refuse() -> str:
    """Say what a task of this agent holds."""
    raise ToolFailed(
        "there is nothing to answer", remedy="give payload.text, or payload.messages with role and content"
    )
