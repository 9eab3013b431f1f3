#!/usr/bin/env bash
# Qwen Code 0.15.10 (npm), Agent Client Protocol by `qwen --acp`, Node 20. 2026-11-27.
# `initialize` answers with `sessionCapabilities.resume`, and `session/resume` for a session that this very process
# has just made is refused: -32601, "Method not found". `session/load` for the same session works.
# Most would expect: a capability that an agent advertises is one that it has; the protocol tells clients to look
# there before they call an optional method.
# Seen: offers list, resume; session/resume: -32601; session/load: ok
# Why an agent mesh meets it: it resumes the session of a coding agent after a wait or a crash, by `session/resume`
# where that is offered, since it sends no history again. Who trusts the offer begins a new session each time.
# Needs no model: nothing is prompted. Downloads about 60 MB.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --silent --no-audit --no-fund @qwen-code/qwen-code@0.15.10
cat > t.py <<'P'
import json
import os
import subprocess

environment = {"PATH": os.environ["PATH"], "HOME": os.getcwd(), "OPENAI_API_KEY": "none", "OPENAI_MODEL": "m"}
environment["OPENAI_BASE_URL"] = "http://127.0.0.1:9/v1"
command = ["node_modules/.bin/qwen", "--acp", "--auth-type", "openai"]
agent = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-3, env=environment, text=True, bufsize=1)


def ask(number, method, params):
    request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    print(json.dumps(request), file=agent.stdin, flush=True)
    for line in agent.stdout:
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("id") == number and "method" not in message:
            return message


offered = ask(1, "initialize", {"protocolVersion": 1, "clientCapabilities": {}})["result"]["agentCapabilities"]
place = {"cwd": os.getcwd(), "mcpServers": []}
session = ask(2, "session/new", place)["result"]["sessionId"]
replies = {name: ask(n, f"session/{name}", {"sessionId": session, **place}) for n, name in ((3, "resume"), (4, "load"))}
print(f"offers {', '.join(sorted(offered['sessionCapabilities']))}", end="")
for name, reply in replies.items():
    print(f"; session/{name}: {reply['error']['code'] if 'error' in reply else 'ok'}", end="")
print()
agent.kill()
P
seen=$(timeout 120 python3 t.py)
echo "seen: $seen"
if [ "$seen" = "offers list, resume; session/resume: -32601; session/load: ok" ]; then echo "as stated"; else echo "changed"; exit 1; fi
