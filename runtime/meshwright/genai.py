"""The names of OpenTelemetry's GenAI conventions that we use.

The constants of the `opentelemetry-semantic-conventions` package are deprecated ("moved to
semantic-conventions-genai"), which has no Python package yet; the names here are that repository's. Spans
are named by operation and object: `invoke_agent {agent}`, `chat {model}`, `execute_tool {tool}`. What
messages, arguments and results say is recorded only where settings allow.
"""

from __future__ import annotations

OPERATION_NAME = "gen_ai.operation.name"
CHAT = "chat"
_EMBEDDINGS = "embeddings"
CREATE_AGENT = "create_agent"
INVOKE_AGENT = "invoke_agent"
_INVOKE_WORKFLOW = "invoke_workflow"
EXECUTE_TOOL = "execute_tool"
_RETRIEVAL = "retrieval"
PLAN = "plan"

_PROVIDER_NAME = "gen_ai.provider.name"
_WORKFLOW_NAME = "gen_ai.workflow.name"
_PROMPT_NAME = "gen_ai.prompt.name"
AGENT_ID = "gen_ai.agent.id"
AGENT_NAME = "gen_ai.agent.name"
_AGENT_DESCRIPTION = "gen_ai.agent.description"
_AGENT_VERSION = "gen_ai.agent.version"
CONVERSATION_ID = "gen_ai.conversation.id"

REQUEST_MODEL = "gen_ai.request.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
_RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
_USAGE_CACHE_READ_INPUT_TOKENS = "gen_ai.usage.cache_read.input_tokens"
_USAGE_CACHE_CREATION_INPUT_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
_USAGE_REASONING_OUTPUT_TOKENS = "gen_ai.usage.reasoning.output_tokens"

TOOL_NAME = "gen_ai.tool.name"
_TOOL_TYPE = "gen_ai.tool.type"
TOOL_CALL_ID = "gen_ai.tool.call.id"

# Content
_TOOL_CALL_ARGUMENTS = "gen_ai.tool.call.arguments"
TOOL_CALL_RESULT = "gen_ai.tool.call.result"
_SYSTEM_INSTRUCTIONS = "gen_ai.system_instructions"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"

ERROR_TYPE = "error.type"  # of the general conventions
