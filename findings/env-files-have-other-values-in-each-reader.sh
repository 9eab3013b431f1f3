#!/usr/bin/env bash
# python-dotenv 1.2.4 (PyPI), dotenv 18.0.10 (npm), Node 20 --env-file, uv 0.13.8 --env-file, bash 5. 2026-11-29.
# One `.env`, five readers, no warning of any: a key with `#` is whole for python-dotenv, uv and a shell, and ends at the
# `#` for npm's dotenv and for Node. A `$1s` in a password stays for python-dotenv, dotenv and Node; uv and a shell
# expand it, to nothing or to `s`. `\n` in double quotes is a line break for all but the shell.
# Most would expect: the same values, as all speak of `.env` files; each documents its own rules, and these contradict
# each other: dotenv wants quotes around `#`, python-dotenv "a comment after a space", uv nothing.
# Seen: python-dotenv: sk-a#b pa$1s 2; dotenv: sk-a pa$1s 2; node: sk-a pa$1s 2; uv: sk-a#b pa 2; bash: sk-a#b pas 1
# Why an agent runtime meets it: an agent in Python and its MCP servers in Node share one `.env` with keys and passwords
# that a generator made. The same key is right in one process and refused in the other, and a private key has one line.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check python-dotenv==1.2.4 uv==0.13.8
npm init -y > /dev/null
npm i --no-audit --no-fund --silent dotenv@18.0.10
printf '%s\n' 'KEY=sk-a#b' 'PASSWORD=pa$1s' 'PEM="one\ntwo"' > .env
cat > show.py <<'P'
import os
import sys

import dotenv

values = dotenv.dotenv_values(".env") if sys.argv[1] == "python-dotenv" else os.environ
print(f"{sys.argv[1]}: {values['KEY']} {values['PASSWORD']} {len(values['PEM'].splitlines())}")
P
cat > show.js <<'J'
const [, , name] = process.argv
const values = name === 'dotenv' ? require('dotenv').parse(require('fs').readFileSync('.env')) : process.env
console.log(`${name}: ${values.KEY} ${values.PASSWORD} ${values.PEM.split('\n').length}`)
J
echo "$(v/bin/uv --version), node $(node --version), $(npm ls --depth 0 | grep -o 'dotenv@.*'), $BASH_VERSION"
seen=$(
    v/bin/python show.py python-dotenv
    node show.js dotenv
    node --env-file=.env show.js node
    v/bin/uv run -q --no-project --no-config --python v/bin/python --env-file .env -- v/bin/python show.py uv
    bash -c 'set --; set -a; . ./.env; exec v/bin/python show.py bash'
)
seen=$(paste -sd ';' <<< "$seen")
echo "seen: $seen"
expected='python-dotenv: sk-a#b pa$1s 2;dotenv: sk-a pa$1s 2;node: sk-a pa$1s 2;uv: sk-a#b pa 2;bash: sk-a#b pas 1'
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
