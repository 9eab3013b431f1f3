"""Says something in the chat, signed as Standard Webhooks has it: python say.py WHO TEXT [URL]."""

import base64
import hmac
import json
import os
import sys
import time
from urllib.request import Request, urlopen
from uuid import uuid4

message_id, sent_at = str(uuid4()), int(time.time())
message = {"id": message_id, "sender": sys.argv[1], "content": sys.argv[2], "thread_id": "chat-4"}
body = json.dumps(message).encode()
key = base64.b64decode(os.environ["CHAT_SECRET"].removeprefix("whsec_"))
signed = hmac.digest(key, f"{message_id}.{sent_at}.".encode() + body, "sha256")
headers = {
    "Content-Type": "application/json",
    "webhook-id": message_id,
    "webhook-timestamp": str(sent_at),
    "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
}
url = f"{(*sys.argv, 'http://127.0.0.1:8000')[3]}/channels/shop"
with urlopen(Request(url, body, headers)) as response:
    response.read()
