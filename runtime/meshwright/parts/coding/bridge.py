"""The gateway's tools by stdio, for agents that take MCP servers in no other way: all have to take this one.

`SOURCE` is a program of the standard library alone, which runs in the box.
"""

from __future__ import annotations

from typing import Any

from meshwright.agents.sandbox.execution import Interpreter
from meshwright.parts.coding.programs import SERVER, TOKEN

SOURCE = f"""
import http.client, os, sys, threading

place, writing = os.environ["{SERVER}"].removeprefix("http://"), threading.Lock()
headers = {{"authorization": "Bearer " + os.environ["{TOKEN}"], "content-type": "application/json"}}


def pass_on(line):
    try:
        connection = http.client.HTTPConnection(place)
        connection.request("POST", "/mcp", line, headers)
        answer = connection.getresponse()
        body = answer.read()
    except OSError:
        os._exit(1)
    if answer.status != 202:
        with writing:
            sys.stdout.buffer.write(body.replace(b"\\n", b" ") + b"\\n")
            sys.stdout.buffer.flush()


for line in sys.stdin.buffer:
    if line.strip():
        threading.Thread(target=pass_on, args=[line], daemon=True).start()
for call in threading.enumerate()[1:]:
    call.join(1)
os._exit(0)  # the interpreter aborts at its end if a thread is about to write
"""


def stdio_server(address: str, token: str) -> dict[str, Any]:
    """The entry of a session's MCP servers that starts it."""
    command, *arguments = Interpreter.own().command(SOURCE)
    env = [{"name": SERVER, "value": address}, {"name": TOKEN, "value": token}]
    return {"name": "mesh", "command": command, "args": arguments, "env": env}
