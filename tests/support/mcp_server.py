"""An MCP server for tests: the documented wire over stdin and stdout, and whatever a hostile one may do.

`python mcp_server.py SCRIPT` reads its tools from a JSON file at each `tools/list`. An entry is a tool of the
wire, with `does` in addition: the content to answer, or `never`, `die`, `deaf`, `big`, `endless`, and so on.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

VERSION = "2025-11-25"
BIG = 10_000_000
DEAF = {"result": {"content": [{"type": "text", "text": "I hear nothing more"}]}}


def main() -> None:
    script = Path(sys.argv[1])
    script.with_suffix(".pid").write_text(str(os.getpid()))
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        answer = answer_to(message["method"], message.get("params", {}), json.loads(script.read_text()))
        if answer == DEAF:  # it lives on, and takes nothing any more
            os.close(sys.stdin.fileno())
            os.closerange(3, 256)  # of which uvloop leaves one open
        if answer is not None:
            print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}), flush=True)
        if answer == DEAF:
            signal.pause()


def answer_to(method: str, params: dict[str, Any], tools: list[dict[str, Any]]) -> dict[str, Any] | None:
    match method:
        case "initialize":
            known = {"protocolVersion": VERSION, "serverInfo": {"name": "scripted", "version": "1"}}
            return {"result": {**known, "capabilities": {"tools": {"listChanged": True}}}}
        case "tools/list":
            listed = [{name: tool[name] for name in tool if name != "does"} for tool in tools]
            return {"result": {"tools": listed}}
        case "tools/call":
            does = next((tool["does"] for tool in tools if tool["name"] == params["name"]), "never")
            return called(does, params.get("arguments", {}))
        case _:
            return {"error": {"code": -32601, "message": f"there is no method {method}"}}


def called(does: Any, arguments: dict[str, Any]) -> dict[str, Any] | None:
    match does:
        case "never":
            return None
        case "die":
            print("the disk is gone", file=sys.stderr, flush=True)
            os._exit(3)
        case "deaf":
            return DEAF
        case "big":
            return {"result": {"content": [{"type": "text", "text": "x" * BIG}]}}
        case "tell":
            print(f"cannot log in with {sys.argv[-1]}", file=sys.stderr, flush=True)
            return {
                "result": {"content": [{"type": "text", "text": " ".join([*sys.argv, *os.environ.values()])}]}
            }
        case "endless":
            while True:
                sys.stdout.write("x" * 1_000_000)
        case "environment":
            return {"result": {"content": [{"type": "text", "text": " ".join(sorted(os.environ))}]}}
        case "fail":
            return {"result": {"content": [{"type": "text", "text": "no such row"}], "isError": True}}
        case list():
            return {"result": {"content": does}}
        case _:
            return {"result": {"content": [{"type": "text", "text": f"{does} {json.dumps(arguments)}"}]}}


if __name__ == "__main__":
    main()
