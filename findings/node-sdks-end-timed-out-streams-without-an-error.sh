#!/usr/bin/env bash
# openai 6.49.0 and @anthropic-ai/sdk 1.14.0 (npm), Node 20. 2026-11-29.
# A provider streams "Pay 5" and stalls. The call has `signal: AbortSignal.timeout(1000)`. The loop over the stream ends as
# if the reply were whole: no error, and nothing on the stream says so. The helpers of the same SDKs, `.stream()`, raise
# APIUserAbortError, and `fetch` below them raises TimeoutError. The SDKs' own `timeout` does not end a stream at all.
# Most would expect: the error of the signal, as `fetch` and every other API with a signal raise it. The READMEs say that
# `break` or `stream.controller.abort()` cancels a stream; a timeout is no wish of the reader to have no more.
# Seen: openai ended with "Pay 5"; openai stream() raised APIUserAbortError; anthropic ended with "Pay 5";
# anthropic stream() raised APIUserAbortError; fetch raised TimeoutError
# Why an agent runtime meets it: streams of models stall, and a deadline is how a task bounds them. Half an answer is
# recorded as the result of the step, the task is a success, and no retry is made.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y > /dev/null
npm i --no-audit --no-fund --silent openai@6.49.0 @anthropic-ai/sdk@1.14.0
cat > t.mjs <<'J'
import http from 'node:http'
import OpenAI from 'openai'
import Anthropic from '@anthropic-ai/sdk'

const message = { id: 'm', type: 'message', role: 'assistant', model: 'm', content: [], stop_reason: null }
const usage = { input_tokens: 1, output_tokens: 1 }
const delta = { type: 'text_delta', text: 'Pay 5' }
const OF_ANTHROPIC = [
  { type: 'message_start', message: { ...message, usage } },
  { type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } },
  { type: 'content_block_delta', index: 0, delta },
]
const choices = [{ index: 0, delta: { content: 'Pay 5' }, finish_reason: null }]
const OF_OPENAI = [{ id: '1', object: 'chat.completion.chunk', created: 1, model: 'm', choices }]
const server = http.createServer((request, response) => {
  request.resume()
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  for (const event of request.url.endsWith('/messages') ? OF_ANTHROPIC : OF_OPENAI) {
    response.write(`${event.type ? `event: ${event.type}\n` : ''}data: ${JSON.stringify(event)}\n\n`)
  } // and it stalls
})
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const url = `http://127.0.0.1:${server.address().port}`
const openai = new OpenAI({ apiKey: 'x', baseURL: `${url}/v1`, maxRetries: 0 })
const anthropic = new Anthropic({ apiKey: 'x', baseURL: url, maxRetries: 0 })
const messages = [{ role: 'user', content: 'How much?' }]
const call = { model: 'm', messages }
const chunk = (event) => event.choices[0].delta.content
const text = (event) => event.delta?.text ?? ''

async function read(name, start, piece) {
  let answer = ''
  try {
    for await (const event of await start({ signal: AbortSignal.timeout(1000) })) answer += piece(event)
    return `${name} ended with "${answer}"`
  } catch (error) {
    if (!answer) throw error
    return `${name} raised ${error.name === 'Error' ? error.constructor.name : error.name}`
  }
}

const seen = [
  await read('openai', (options) => openai.chat.completions.create({ ...call, stream: true }, options), chunk),
  await read('openai stream()', (options) => openai.chat.completions.stream(call, options), chunk),
  await read('anthropic', (options) => anthropic.messages.create({ ...call, max_tokens: 9, stream: true }, options), text),
  await read('anthropic stream()', (options) => anthropic.messages.stream({ ...call, max_tokens: 9 }, options), text),
  await read('fetch', async (options) => (await fetch(`${url}/v1`, options)).body, (bytes) => `${bytes.length}`),
]
console.log(seen.join('; '))
process.exit()
J
echo "node $(node --version), $(npm ls --depth 0 | grep -oE '(openai|sdk)@.*' | paste -sd,)"
seen=$(timeout 60 node t.mjs)
echo "seen: $seen"
expected='openai ended with "Pay 5"; openai stream() raised APIUserAbortError; anthropic ended with "Pay 5"'
if [ "$seen" = "$expected; anthropic stream() raised APIUserAbortError; fetch raised TimeoutError" ]; then echo "as stated"; else echo "changed"; exit 1; fi
