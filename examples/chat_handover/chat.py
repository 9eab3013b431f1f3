"""Stands for a chat on this machine, and prints what is said to it: python chat.py [PORT]."""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Chat(BaseHTTPRequestHandler):
    """Takes messages; those that the agent is typing are passed over."""

    def do_POST(self) -> None:
        """Print a message."""
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if sent["type"] == "message":
            print(" ".join(sent["data"]["content"].split()), flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing but messages."""


server = HTTPServer(("127.0.0.1", int((*sys.argv, "9010")[1])), Chat)
print(f"chat http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
