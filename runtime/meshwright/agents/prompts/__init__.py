"""Prompt files: the instructions of agents, as text that you may edit while the mesh runs.

    ---
    description: Greets people.
    model: default
    temperature: 0.2
    max_tokens: 512
    tags: [cheap]
    variables: [agent_name]
    ---
    You are {{agent_name}}. You greet people.

A `{{name}}` is replaced by a value, once, and what the value says is never looked at again. Below a line
`{{role "user"}}` or `{{role "assistant"}}` stands a message of its own. There is nothing else: no blocks and
no expressions.
"""

from meshwright.agents.prompts.prompt import Prompt, RenderedPrompt, parse_prompt
from meshwright.agents.prompts.sources import CodePrompt, PromptContext, Prompts, PromptSource, PromptSources

__all__ = [
    "CodePrompt",
    "Prompt",
    "PromptContext",
    "PromptSource",
    "PromptSources",
    "Prompts",
    "RenderedPrompt",
    "parse_prompt",
]
