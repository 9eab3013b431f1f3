#!/usr/bin/env bash
# opentelemetry-sdk 1.45.2 (PyPI), @opentelemetry/sdk-trace-base 2.12.1 (npm), Node 20. 2026-11-29.
# With a limit of 5 for the length of attributes (OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT) the SDK for JavaScript counts UTF-16
# units, and cuts an emoji in two: what is left is no text that UTF-8 can hold, and becomes U+FFFD in it. Python counts
# characters. The specification counts characters too, and leaves open which.
# Most would expect: the same limit cuts the same text in each language, and never within a character.
# Seen: python abcd + U+1F680; js abcd + U+D83D, well-formed false, in UTF-8 abcd + U+FFFD
# Why an agent runtime meets it: prompts and answers are attributes of spans, long ones are cut, and have emojis and
# letters beyond 16 bits. A text that was cut is found in one service by the end that another one has not.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check opentelemetry-sdk==1.45.2
npm init -y > /dev/null
npm i --no-audit --no-fund --silent @opentelemetry/api@1.9.1 @opentelemetry/sdk-trace-base@2.12.1
cat > t.py <<'P'
from opentelemetry.sdk.trace import SpanLimits, TracerProvider

tracer = TracerProvider(span_limits=SpanLimits(max_attribute_length=5)).get_tracer("t")
text = tracer.start_span("chat", attributes={"answer": "abcd\U0001f680ef"}).attributes["answer"]
print(f"python {text[:4]} + U+{ord(text[4:]):X}")
P
cat > t.js <<'J'
const { BasicTracerProvider } = require('@opentelemetry/sdk-trace-base')
const tracer = new BasicTracerProvider({ spanLimits: { attributeValueLengthLimit: 5 } }).getTracer('t')
const text = tracer.startSpan('chat', { attributes: { answer: 'abcd\u{1F680}ef' } }).attributes.answer
const name = (rest) => `U+${rest.codePointAt(0).toString(16).toUpperCase()}`
const sent = new TextDecoder().decode(new TextEncoder().encode(text))
console.log(`js ${text.slice(0, 4)} + ${name(text.slice(4))}, well-formed ${text.isWellFormed()}, in UTF-8 ${sent.slice(0, 4)} + ${name(sent.slice(4))}`)
J
echo "$(v/bin/pip list --disable-pip-version-check 2>/dev/null | grep opentelemetry-sdk | tr -s ' '), $(npm ls --depth 0 | grep -o 'sdk-trace-base@.*'), node $(node --version)"
seen="$(v/bin/python t.py); $(node t.js 2> /dev/null)"
echo "seen: $seen"
expected="python abcd + U+1F680; js abcd + U+D83D, well-formed false, in UTF-8 abcd + U+FFFD"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
