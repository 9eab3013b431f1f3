#!/usr/bin/env bash
# cloudevents 2.2.0 (PyPI), cloudevents 10.0.0 (npm), github.com/cloudevents/sdk-go/v2 2.16.2 (Go). 2026-11-29.
# In binary mode over HTTP an attribute is a header. The SDK for Python, in its API of version 2, percent-encodes and
# decodes the values; those for JavaScript and Go, and the older API `cloudevents.v1` of the same Python package, do
# neither. So a subject from Python reaches Go with %20 in place of its spaces, and one from Go or from the old API that
# has %20 in it, as the name of a file has, reaches Python with a space.
# Most would expect: SDKs of one project understand each other; the HTTP binding 1.0.2 asks for percent-encoding.
# Seen: python sends daily%20report, go daily report, js daily report, python v1 daily report;
# a%20b.pdf is read by python as a b.pdf, by go as a%20b.pdf, by js as a%20b.pdf, by python v1 as a%20b.pdf
# Why an agent runtime meets it: agents are woken by events of buckets, brokers and webhooks, whose subject is the object
# that they shall work on. The file is not found, or the key under which an event was deduplicated is another one.
set -euo pipefail
dir=$(mktemp -d); trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check cloudevents==2.2.0
npm init -y > /dev/null
npm i --no-audit --no-fund --silent cloudevents@10.0.0
cat > t.py <<'P'
import warnings

from cloudevents.core.bindings.http import HTTPMessage, from_binary, to_binary
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

warnings.simplefilter("ignore")
from cloudevents.v1.http import CloudEvent as OldEvent
from cloudevents.v1.http import from_http
from cloudevents.v1.http import to_binary as to_old_binary

attributes = {"id": "1", "type": "t", "source": "/s", "specversion": "1.0", "subject": "daily report"}
sent = to_binary(CloudEvent(dict(attributes), {}), JSONFormat()).headers["ce-subject"]
old_sent = to_old_binary(OldEvent(dict(attributes), {}))[0]["ce-subject"]
headers = {f"ce-{name}": value for name, value in attributes.items()}
headers |= {"ce-subject": "a%20b.pdf", "content-type": "application/json"}
read = from_binary(HTTPMessage(headers, b"{}"), JSONFormat(), CloudEvent).get_subject()
print("", sent, old_sent, read, from_http(headers, b"{}")["subject"], sep="\t")
P
cat > t.js <<'J'
const { HTTP, CloudEvent } = require('cloudevents')
const attributes = { id: '1', type: 't', source: '/s', specversion: '1.0' }
const sent = HTTP.binary(new CloudEvent({ ...attributes, subject: 'daily report', data: {} })).headers['ce-subject']
const headers = { 'ce-subject': 'a%20b.pdf', 'content-type': 'application/json' }
for (const name in attributes) headers[`ce-${name}`] = attributes[name]
console.log(['', sent, HTTP.toEvent({ headers, body: '{}' }).subject].join('\t'))
J
mkdir g
cat > g/main.go <<'G'
package main

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/protocol/http"
)

func main() {
	sent := event.New()
	sent.SetID("1")
	sent.SetType("t")
	sent.SetSource("/s")
	sent.SetSubject("daily report")
	request := httptest.NewRequest("POST", "/", nil)
	if err := http.WriteRequest(context.Background(), binding.ToMessage(&sent), request); err != nil {
		panic(err)
	}
	received := httptest.NewRequest("POST", "/", strings.NewReader("{}"))
	received.Header = request.Header.Clone()
	received.Header.Set("ce-subject", "a%20b.pdf")
	received.Header.Set("content-type", "application/json")
	got, err := http.NewEventFromHTTPRequest(received)
	if err != nil {
		panic(err)
	}
	fmt.Printf("\t%s\t%s\n", request.Header.Get("ce-subject"), got.Subject())
}
G
(cd g && go mod init t 2> /dev/null && go get -d github.com/cloudevents/sdk-go/v2@v2.16.2 2> /dev/null \
    && go mod tidy 2> /dev/null && go build -o ../t-go .)
echo "python $(v/bin/pip list --disable-pip-version-check 2>/dev/null | grep '^cloudevents' | tr -s ' '), $(npm ls --depth 0 | grep -o 'cloudevents@.*'), $(grep -o 'sdk-go/v2 v.*' g/go.mod)"
IFS=$'\t' read -r _ sent old_sent read old_read <<< "x$(v/bin/python t.py)"
IFS=$'\t' read -r _ js_sent js_read <<< "x$(node t.js)"
IFS=$'\t' read -r _ go_sent go_read <<< "x$(./t-go)"
seen="python sends $sent, go $go_sent, js $js_sent, python v1 $old_sent; \
a%20b.pdf is read by python as $read, by go as $go_read, by js as $js_read, by python v1 as $old_read"
echo "seen: $seen"
expected="python sends daily%20report, go daily report, js daily report, python v1 daily report; \
a%20b.pdf is read by python as a b.pdf, by go as a%20b.pdf, by js as a%20b.pdf, by python v1 as a%20b.pdf"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
