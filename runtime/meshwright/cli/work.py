"""The nouns of work: `mesh task` and `mesh inbox`. The short forms of their verbs are the same commands."""

from __future__ import annotations

import click

from meshwright.cli.answers import answer, approve, deny
from meshwright.cli.batches import cancel, dead_letters, retry, score, tree
from meshwright.cli.inbox import list_questions, show_question
from meshwright.cli.nouns import Noun
from meshwright.cli.tasks import ask, show, steps, submit, tasks


@click.group(cls=Noun)
def task() -> None:
    """List tasks, show one with its attempts and outcome, cancel one.

    `mesh task` lists them, `mesh task ID` shows one.
    """


@click.group(cls=Noun)
def inbox() -> None:
    """List what waits for a person, show one, answer it.

    `mesh inbox` lists it, `mesh inbox ID` shows one question whole. ID is the end or the beginning of an id
    that only one has, or of its task's.
    """


for verb, command in {
    "list": tasks,
    "show": show,
    "steps": steps,
    "tree": tree,
    "score": score,
    "ask": ask,
    "submit": submit,
    "answer": answer,
    "cancel": cancel,
    "retry": retry,
    "dead-letters": dead_letters,
}.items():
    task.add_command(command, verb)
for command in (list_questions, show_question, approve, deny, answer):
    inbox.add_command(command)
