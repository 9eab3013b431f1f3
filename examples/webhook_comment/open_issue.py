"""Delivers an issue as GitHub does, signed: FORGE_SECRET=... python open_issue.py [URL]."""

import hmac
import json
import os
import sys
from urllib.request import Request, urlopen

ISSUE = {
    "action": "opened",
    "issue": {"number": 7, "title": "The login is slow", "body": "Since Monday it takes a minute."},
    "repository": {"full_name": "acme/shop"},
    "sender": {"login": "ada"},
}
body = json.dumps(ISSUE).encode()
signature = hmac.digest(os.environ["FORGE_SECRET"].encode(), body, "sha256").hex()
headers = {
    "Content-Type": "application/json",
    "X-GitHub-Event": "issues",
    "X-GitHub-Delivery": "delivery-1",  # sent again, it is the same task
    "X-Hub-Signature-256": f"sha256={signature}",
}
url = f"{(*sys.argv, 'http://127.0.0.1:8000')[1]}/webhooks/github"
with urlopen(Request(url, body, headers)) as response:
    print(response.read().decode())
