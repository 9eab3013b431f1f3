"""A conversation with the built-in model, and the tools and files that it is about."""

import json
from typing import Any

from meshwright.models.offline_model import OfflineModel
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest, ToolCall, ToolSpec

FILES: dict[str, str] = {
    "docs/fences.md": "# Fences\n\nA fence is a number that grows with every claim of a task. Work with an\n"
    "old fence is refused when it commits.\n",
    "docs/bread.md": "Knead the dough for ten minutes.\nBake it until it is brown.\n",
    "docs/paths.md": "Relative paths start at the project's\nfolder, wherever they were given.\n",
    "src/clock.py": '"""Time, as a port."""\n\ndef now():\n    # The machine says what time it is.\n',
}
LOG = [{"commit": "a1b2c3d", "date": "2026-11-20", "author": "Ada", "subject": "Refuse an old fence"}]


def tool(name: str, description: str = "", **properties: Any) -> ToolSpec:
    required = [key for key, schema in properties.items() if "default" not in schema]
    parameters = {"type": "object", "properties": properties, "required": required}
    return ToolSpec(name=name, description=description, parameters=parameters)


TEXT = {"type": "string"}
SEARCH = tool("search_files", query=TEXT, pattern={"type": "string", "default": "**"})
READ = tool("read_file", path=TEXT, start_line={"type": "integer", "default": 1})
ANY = {"type": "string", "default": ""}
LIST = tool("list_files", pattern=ANY, folder=ANY)
FETCH = tool("fetch_page", url={"type": "string", "format": "uri"})
GIT_LOG = tool("git_log", max_count={"type": "integer", "default": 20}, path=ANY)
DELEGATE = tool("delegate", agent_id={"const": "researcher-agent", "type": "string"}, text=TEXT)
SCOPE = {"type": "string", "enum": ["task", "agent", "project", "global"], "default": "agent"}
REMEMBER = tool("remember", text=TEXT, scope=SCOPE)
ALL = (LIST, READ, SEARCH, FETCH, GIT_LOG, DELEGATE, REMEMBER)


def search(query: str, pattern: str = "**") -> dict[str, Any]:
    words = query.lower().split()
    return {
        "matches": [
            {"file": path, "line": number, "text": line.strip()}
            for path, text in FILES.items()
            for number, line in enumerate(text.splitlines(), 1)
            if any(word in line.lower() for word in words)
        ]
    }


def read(path: str, start_line: int = 1) -> dict[str, Any]:
    text = FILES.get(path)
    return {"error": f"there is no {path}"} if text is None else {"file": path, "start_line": 1, "text": text}


TOOLS: dict[str, Any] = {
    "search_files": search,
    "read_file": read,
    "list_files": lambda pattern="**", folder="": {
        "files": [each for each in FILES if each.startswith(folder)]
    },
    "fetch_page": lambda url: {
        "url": url,
        "status": 200,
        "title": "Oslo",
        "text": "Oslo is the capital of Norway.",
    },
    "git_log": lambda max_count=20, path="": LOG,
    "delegate": lambda agent_id, text: "- A fence is a number. (docs/fences.md:3)",
    "remember": lambda text, scope="agent": f"Remembered for {scope}.",
    "sunrise": lambda city: "06:41",
}


class Conversation:
    """Runs the model and the tools above until it answers, and keeps what it called."""

    def __init__(self, *tools: ToolSpec, system: str = "You are a careful agent.") -> None:
        self.tools = tools
        self.system = system
        self.model = OfflineModel()
        self.called: list[tuple[str, dict[str, Any]]] = []

    async def ask(self, question: str, **fields: Any) -> str:
        messages = [
            ChatMessage(role="system", content=self.system),
            ChatMessage(role="user", content=question),
        ]
        while calls := (reply := await self.complete(messages, **fields)).tool_calls:
            assert len(self.called) < 10, "it never answers"
            messages.append(ChatMessage(role="assistant", tool_calls=calls))
            messages.extend(self.run(call) for call in calls)
        return reply.content

    async def complete(self, messages: list[ChatMessage], **fields: Any) -> ModelReply:
        request = ModelRequest(messages=tuple(messages), user="tester", tools=self.tools, **fields)
        return await self.model.complete(request)

    def run(self, call: ToolCall) -> ChatMessage:
        arguments = json.loads(call.arguments)
        self.called.append((call.name, arguments))
        result = TOOLS[call.name](**arguments)
        content = result if isinstance(result, str) else json.dumps(result)
        return ChatMessage(role="tool", content=content, tool_call_id=call.id)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.called]
