"""Stands for GitHub's API on this machine, and prints the comments that it gets: python forge.py [PORT]."""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Forge(BaseHTTPRequestHandler):
    """Knows no comments before it gets one."""

    def do_GET(self) -> None:
        """List no comments."""
        self._answer(200, [])

    def do_POST(self) -> None:
        """Take a comment, and print it."""
        comment = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print(f"{self.path}: {comment['body'].partition('<!--')[0].strip()}", flush=True)
        self._answer(201, {"id": 1})

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing but comments."""

    def _answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = HTTPServer(("127.0.0.1", int((*sys.argv, "9009")[1])), Forge)
print(f"forge http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
