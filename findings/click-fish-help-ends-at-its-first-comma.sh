#!/usr/bin/env bash
# Click 8.5.1 (PyPI), completion for fish, fish 3.6.0 (Debian 12). 2026-11-29.
# A command's help is "Work again on a task that failed, timed out or was cancelled". bash shows no help and zsh all of
# it; fish ends it at the first comma. Click prints `plain,retry<tab>help`, and its script for fish splits each line at
# every comma and echoes the second field alone. A help that holds a comma in its first words says the opposite of
# what it means: "Delete nothing, list what a run would delete" is shown as "Delete nothing".
# Most would expect: a description as it was written, as Click's zsh completion has it.
# Seen: retry: Work again on a task that failed; prune: Delete nothing
# Why an agent runtime meets it: operators complete commands that delete, retry and cancel, and read the half of a sentence.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check click==8.5.1
cat > v/bin/tool <<'P'
#!/usr/bin/env python3
import click


@click.group()
def tool() -> None:
    pass


tool.command("retry", help="Work again on a task that failed, timed out or was cancelled")(lambda: None)
tool.command("prune", help="Delete nothing, list what a run would delete")(lambda: None)
tool(prog_name="tool")
P
sed -i "1s|.*|#!$dir/v/bin/python|" v/bin/tool
chmod +x v/bin/tool
export HOME="$dir" PATH="$dir/v/bin:$PATH"
_TOOL_COMPLETE=fish_source tool > complete.fish
help_of() { fish --no-config -c "source complete.fish; complete -C'tool $1'" | cut -f2; }
seen="retry: $(help_of ret); prune: $(help_of pru)"
echo "seen: $seen"
expected="retry: Work again on a task that failed; prune: Delete nothing"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
