"""Which tool a question asks for next: one call at a time, never the same twice, at most a few."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from meshwright.models.offline.kit import agents_in, by_purpose, filled, folder_in, purpose_of
from meshwright.models.offline.passages import file_weight, passages_in
from meshwright.models.offline.talk import Result, Talk, paths_in, urls_in
from meshwright.models.offline.terms import coverage, relevance, telling_words, terms
from meshwright.models.port import ToolSpec

MAX_CALLS = 4
MAX_READS = 2
MATERIAL = frozenset({"search", "read", "fetch"})  # purposes of tools whose results are quoted from
LINES_BEFORE = 20  # of a match, when its file is read
LINES_READ = 120
MATCHES_COUNTED = 3  # of a file: a long file with many weak matches is no better
ENOUGH = 0.99  # share of the question's terms that a memory must have to need no tool

REMEMBER = re.compile(
    r"\b(?:please\s+)?(?:remember|memori[sz]e|keep in mind|note|don't forget)(?:\s+that|\s*:)?\s+(\S.*)",
    re.I | re.S,
)
COMMITS = re.compile(
    r"\b(?:commits|(?:last|latest|newest|recent) commit|commit (?:log|history)|git (?:log|history)"
    r"|what (?:ha[sv]e? )?(?:been )?changed|what(?:'s| is) new|recent\w* chang\w+)\b",
    re.I,
)
DIFF = re.compile(r"\b(?:diff|uncommitted|working tree|unstaged)\b", re.I)
RESEARCH = re.compile(
    r"\b(?:research|compare|comparison|investigate|find out|look into|survey|delegate)\b", re.I
)
LISTING = re.compile(
    r"^\W*(?:please )?(?:list|show)\b.{0,30}\b(?:files|folders|documents)\b"
    r"|\b(?:which|what) (?:\w+ )?(?:files|documents) (?:are|exist|do|does|can)\b",
    re.I,
)
GLOB = re.compile(r"(?<!\S)[\w./-]*\*[\w./*-]*")
SCOPES = {
    "everybody": "global",
    "everyone": "global",
    "all agents": "global",
    "global": "global",
    "project": "project",
}


class Call(NamedTuple):
    """A call that is proposed."""

    tool: ToolSpec
    arguments: dict[str, Any]


Rule = Callable[[Talk, Sequence[ToolSpec]], Call | None]


def next_call(talk: Talk, tools: Sequence[ToolSpec]) -> Call | None:
    """The call to make now; None where it is time to answer."""
    if not tools or len(talk.results) >= MAX_CALLS or not talk.question or is_settled(talk):
        return None
    proposals = (rule(talk, tools) for rule in RULES)
    return next((call for call in proposals if call is not None and not was_made(call, talk)), None)


def is_settled(talk: Talk) -> bool:
    """Whether the last call was itself what was asked for."""
    return bool(talk.results) and settles(talk.results[-1])


def settles(result: Result) -> bool:
    """Whether a result is an answer as it is, and not material to quote from."""
    return not result.error and purpose_of(result.name) not in MATERIAL


def was_made(call: Call, talk: Talk) -> bool:
    """Whether a call was made before, with the same arguments."""
    return any(
        call.tool.name == result.name and call.arguments == result.arguments for result in talk.results
    )


def made(talk: Talk, purpose: str, tools: Sequence[ToolSpec]) -> int:
    """How many calls were made for a purpose."""
    names = {tool.name for tool in tools if purpose_of(tool.name) == purpose}
    return sum(result.name in names for result in talk.results)


def propose(tool: ToolSpec | None, talk: Talk, **known: Any) -> Call | None:
    """A call of a tool, if there is one and its parameters can be filled."""
    arguments = filled(tool, known, talk.question) if tool else None
    return Call(tool, arguments) if tool and arguments is not None else None


def remember(talk: Talk, tools: Sequence[ToolSpec]) -> Call | None:
    """Store what the question says to remember."""
    tool, match = by_purpose(tools, "remember"), REMEMBER.match(talk.question.strip())
    if not match or not tool or made(talk, "remember", tools):
        return None
    call = propose(tool, talk, text=match[1].strip())
    scope = next((scope for word, scope in SCOPES.items() if word in talk.asked.lower()), None)
    if call and scope and scope in tool.parameters.get("properties", {}).get("scope", {}).get("enum", ()):
        call.arguments["scope"] = scope
    return call


def fetch(talk: Talk, tools: Sequence[ToolSpec]) -> Call | None:
    """Fetch the pages that the question names."""
    tool = by_purpose(tools, "fetch")
    calls = (propose(tool, talk, url=url) for url in urls_in(talk.asked)[:MAX_READS])
    return next((call for call in calls if call and not was_made(call, talk)), None)


def commits(talk: Talk, tools: Sequence[ToolSpec]) -> Call | None:
    """Look at the latest commits, or at what is not committed yet."""
    path = next(iter(paths_in(talk.asked)), None)
    if DIFF.search(talk.asked) and not made(talk, "diff", tools):
        return propose(by_purpose(tools, "diff"), talk, path=path)
    if COMMITS.search(talk.asked) and not made(talk, "log", tools):
        return propose(by_purpose(tools, "log"), talk, path=path)
    return None


def research(talk: Talk, tools: Sequence[ToolSpec]) -> Call | None:
    """Give research to another agent, once; an agent that the question names is preferred."""
    asked = RESEARCH.search(talk.asked) or agents_in(talk.asked)
    return delegate(talk, tools) if asked else None


def delegate(talk: Talk, tools: Sequence[ToolSpec]) -> Call | None:
    """Give the question to another agent, once."""
    tool = by_purpose(tools, "delegate")
    if not tool or made(talk, "delegate", tools):
        return None
    named = [*agents_in(talk.asked), *agents_in(tool.description), *agents_in(talk.instructions)]
    choice = None if "enum" in agent_schema(tool) else next(iter(named), None)
    return propose(tool, talk, text=talk.question, agent=choice)


def agent_schema(tool: ToolSpec) -> Mapping[str, Any]:
    """The schema of the parameter that names an agent."""
    return tool.parameters.get("properties", {}).get("agent_id", {})


def read_named(talk: Talk, tools: Sequence[ToolSpec]) -> Call | None:
    """Read the files that the question names."""
    tool = by_purpose(tools, "read")
    calls = (propose(tool, talk, path=path) for path in paths_in(talk.asked)[:MAX_READS])
    return next((call for call in calls if call and not was_made(call, talk)), None)


def list_files(talk: Talk, tools: Sequence[ToolSpec]) -> Call | None:
    """List files, those of a pattern if the question has one."""
    if not LISTING.search(talk.asked) or made(talk, "list", tools):
        return None
    pattern = GLOB.search(talk.asked)
    folder = None if pattern else folder_in(talk.asked)
    return propose(by_purpose(tools, "list"), talk, pattern=pattern and pattern[0], folder=folder)


def special(talk: Talk, tools: Sequence[ToolSpec]) -> Call | None:
    """Use a tool of another kind, once, if its name or description shares enough words with the question."""
    others = [tool for tool in tools if not purpose_of(tool.name)]
    called = {result.name for result in talk.results}
    fitting = [tool for tool in others if tool.name not in called and suits(tool, talk)]
    return next((call for tool in fitting if (call := propose(tool, talk))), None)


def suits(tool: ToolSpec, talk: Talk) -> bool:
    """Whether a tool's words are in the question: one telling word of its name, or two of its description."""
    named = set(terms(tool.name.replace("_", " ")))
    described = set(terms(tool.description))
    return bool(named & talk.wanted) or len(described & talk.wanted) >= 2


def search(talk: Talk, tools: Sequence[ToolSpec]) -> Call | None:
    """Search for the question's telling words; for the longest alone where that found nothing."""
    if is_known(talk) or made(talk, "read", tools) or made(talk, "fetch", tools):
        return None
    words = telling_words(talk.subject)
    tries = made(talk, "search", tools)
    if not words or tries > 1 or (tries and found_in(talk)):
        return None
    query = max(words, key=len) if tries else " ".join(words)
    return propose(by_purpose(tools, "search"), talk, query=query)


def read_found(talk: Talk, tools: Sequence[ToolSpec]) -> Call | None:
    """Read the file that a search found most about, around its best line; a second if that is not enough."""
    reads = made(talk, "read", tools)
    files = found_in(talk)
    if reads >= min(MAX_READS, len(files)) or (reads and best_coverage(talk) >= ENOUGH):
        return None
    path, line = files[reads]
    start = max(1, line - LINES_BEFORE) if line else None
    return propose(by_purpose(tools, "read"), talk, path=path, start=start, count=LINES_READ)


def ask_around(talk: Talk, tools: Sequence[ToolSpec]) -> Call | None:
    """Delegate for want of any other way to find out."""
    has_other = any(purpose_of(tool.name) in MATERIAL for tool in tools)
    return None if has_other or talk.results or not talk.wanted or is_known(talk) else delegate(talk, tools)


def is_known(talk: Talk) -> bool:
    """Whether memories or earlier messages say it already, or the question brought its own material."""
    return bool(talk.given) or any(coverage(each.terms, talk.wanted) >= ENOUGH for each in talk.background)


def best_coverage(talk: Talk) -> float:
    """How much of the question the best passage found so far has."""
    return max((coverage(each.terms, talk.wanted) for each in talk.material), default=0.0)


def found_in(talk: Talk) -> list[tuple[str, int | None]]:
    """The files that searches found, the one with most about the question first, each with its best line."""
    found = [
        each for result in talk.answers for each in passages_in(result.value) if each.source and each.line
    ]
    scores = relevance([each.terms for each in found], talk.wanted)
    files: dict[str, list[tuple[float, int | None]]] = {}
    for place in sorted(range(len(found)), key=lambda place: -scores[place]):
        files.setdefault(found[place].source, []).append((scores[place], found[place].line))
    ranked = sorted(
        files, key=lambda path: -sum(score for score, _ in files[path][:MATCHES_COUNTED]) * file_weight(path)
    )
    return [(path, files[path][0][1]) for path in ranked]


RULES: tuple[Rule, ...] = (
    remember,
    fetch,
    commits,
    research,
    read_named,
    list_files,
    special,
    search,
    read_found,
    ask_around,
)
