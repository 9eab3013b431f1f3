"""The context-service: the actor that plans by rules, and the client that has a text compressed."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from pydantic import BaseModel

from meshwright.context.plan import (
    DEFAULT_RULES,
    DOMAIN_CONTEXT,
    METADATA,
    SECTIONS,
    CompressionMethod,
    CompressRequest,
    CompressResponse,
    CompressStats,
    ContextRequest,
    Plan,
    Rules,
    plan,
)
from meshwright.context.text import clip, common_forms, count_tokens, forms, is_form_of
from meshwright.core.errors import MailboxFull, MeshError
from meshwright.kernel.actor import Actor, Turn, turn
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.runtime import Runtime
from meshwright.models.port import CallContext, ChatMessage, Model, ModelReply, ModelRequest
from meshwright.prompts import Prompt, PromptContext, PromptSources
from meshwright.work.conversation import ThreadMessage

CONTEXT_SERVICE = "context-service"
_COMPRESSION_TIMEOUT_SECONDS = 30.0
_BUSY_SECONDS = 0.01
_MESSAGE_SHARE = 4  # one message of a conversation takes at most a quarter of all
_SUMMARISE = """\
You summarise the earlier part of an agent's work on a task. The agent goes on from your summary alone and no
longer sees that part, so keep what it needs: what was asked and decided, what was done and with what result,
exact names, paths, ids and values, what failed and why, and what is still to be done. Only facts of the text,
no instructions, no remarks. At most {max_tokens} tokens."""
# What a summary may leave out: it was chosen by relevance, and another choice is as good.
_OPTIONAL_SECTIONS = frozenset({SECTIONS["sender_memories"], SECTIONS["conversation_snippet"]})
_HEADER = re.compile(rf"^({'|'.join([METADATA, DOMAIN_CONTEXT, *SECTIONS.values()])}):", re.MULTILINE)
_TERM = re.compile(r"\w(?:[\w.+#/@'-]*[\w+#])?")
_SEPARATOR = re.compile(r"[./@+#_'-]+")
_MARKER = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+", re.MULTILINE)
_SENTENCE_START = re.compile(r"(?:^|[.!?:;]\s+|[\"'(\[`*])$")
_LEAKS = {
    "an id": re.compile(
        r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"  # UUID
        r"|\b[0-9A-HJKMNP-TV-Z]{26}\b"  # ULID
        r"|\b(?=[0-9a-f]*[0-9])[0-9a-f]{12,}\b"
        r"|\b(?!project_id)(?:\w+_)?id\s*[:=]",
        re.IGNORECASE,
    ),
    "a score": re.compile(
        r"\b(?:score|relevance|similarity|distance|confidence)\s*[:=]\s*[\d.]+", re.IGNORECASE
    ),
    "a timestamp": re.compile(
        r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\b1[5-9]\d{8}(?:\d{3})?\b"
        r"|\b(?:created|updated|accessed|expires)_at\b|\btimestamp\s*[:=]",
        re.IGNORECASE,
    ),
}


class _NoState(BaseModel):
    """The context-service remembers nothing between requests."""


class ContextService(Actor[_NoState]):
    """Plans the context of a receiver. Its type is `context-service`, its id the tenant's."""

    def __init__(self, ref: ActorRef, rules: Rules = DEFAULT_RULES) -> None:
        super().__init__(ref)
        self._rules = rules

    @turn
    def plan(self, turn: Turn, request: ContextRequest) -> Plan:
        """Apply the rules to a request. Changes nothing, so there is nothing to commit."""
        return plan(request, self._rules)


class ContextClient:
    """Has requests compressed: planned by the actor, and over the ceiling shortened by a model.

    `model` is called outside of any turn, and given `timeout_seconds`; None is a mesh without one. `rules`
    are those of the context-service where it is in this process: to plan needs no turn there, since it
    reads and changes nothing. Without them its actor is asked, wherever it is.
    """

    def __init__(
        self,
        host: Runtime,
        model: Model | None,
        prompts: PromptSources,
        *,
        rules: Rules | None = None,
        timeout_seconds: float = _COMPRESSION_TIMEOUT_SECONDS,
    ) -> None:
        self._host = host
        self._model = model
        self._prompts = prompts
        self._rules = rules
        self._timeout_seconds = timeout_seconds

    async def compress(
        self,
        request: CompressRequest,
        *,
        tenant_id: str = "default",
        traceparent: str | None = None,
        context: Callable[[], CallContext] | None = None,
    ) -> CompressResponse:
        """Make the context for a request's receiver. `context` makes what a call of the model is known by.

        Never fails because of the model: without a valid shorter text the answer is the deterministic one,
        whole, and says why. Raises what `Runtime.call` raises, but waits where the service is too busy.
        """
        started = time.perf_counter()
        if self._rules is not None:
            made = plan(request, self._rules)
        else:
            made = await self._plan(request, tenant_id, traceparent)
        if not made.over_ceiling:
            return _response(made, started, "deterministic")
        if self._model is None:
            return _response(made, started, "deterministic-fallback", error="there is no compression model")
        known_by = context() if context is not None else CallContext(tenant_id=tenant_id)
        prompt = self._prompt(known_by)
        system = prompt.render_from({"sender": request.sender, "receiver": request.receiver})
        reply = await self._ask(self._model, prompt, system, made.text, known_by, prompt.max_tokens)
        if isinstance(reply, str):
            error = f"no model could shorten it{reply}"
        else:
            text = reply.content.strip()
            wrong = "it was cut off" if reply.finish_reason == "length" else problem(text, made)
            if wrong is None:
                return _response(made, started, "model", text=text)
            error = f"the model's text is not valid: {wrong}"
        return _response(made, started, "deterministic-fallback", error=error)

    async def summarise(
        self, text: str, *, max_tokens: int, context: Callable[[], CallContext]
    ) -> tuple[str | None, str | None]:
        """Have the compression model summarise an agent's earlier work: the summary, or why there is none."""
        if self._model is None:
            return None, "there is no compression model"
        system = _SUMMARISE.format(max_tokens=max_tokens)
        known_by = context()
        prompt = self._prompt(known_by)
        reply = await self._ask(self._model, prompt, system, text, known_by, 2 * max_tokens)
        if isinstance(reply, str):
            return None, f"no model could summarise it{reply}"
        summary = reply.content.strip()
        if not summary or reply.finish_reason == "length":
            return None, "the summary is empty" if not summary else "the summary was cut off"
        return summary, None

    async def _plan(self, request: CompressRequest, tenant_id: str, traceparent: str | None) -> Plan:
        ref = ActorRef(CONTEXT_SERVICE, tenant_id)
        while True:
            try:
                reply = await self._host.call(ref, "plan", request, traceparent=traceparent)
            except MailboxFull:  # a thousand runs that begin at once all ask the same actor
                await asyncio.sleep(_BUSY_SECONDS)
            else:
                return Plan.model_validate(reply)

    def _prompt(self, known_by: CallContext) -> Prompt:
        run = PromptContext(known_by.tenant_id, known_by.agent_id, known_by.task_id, known_by.thread_id)
        return self._prompts.resolve(CONTEXT_SERVICE, run)

    async def _ask(
        self, model: Model, prompt: Prompt, system: str, text: str, context: CallContext, max_tokens: int
    ) -> ModelReply | str:
        """The reply of the model, or why there is none, as the end of a sentence."""
        messages = (ChatMessage(role="system", content=system), ChatMessage(role="user", content=text))
        request = ModelRequest(
            model=prompt.model,
            messages=messages,
            tags=prompt.tags,
            user=CONTEXT_SERVICE,
            context=context.model_copy(update={"purpose": "compression", "prompt": prompt.version}),
            temperature=prompt.temperature,
            max_tokens=max_tokens,
            params=dict(prompt.params),
            timeout_seconds=self._timeout_seconds,
            cache=prompt.cache,
        )
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await model.complete(request)
        except TimeoutError:
            return f" within {self._timeout_seconds:g} seconds"
        except MeshError as error:
            return f": {error.code}: {error.message}"
        except Exception as error:  # noqa: BLE001 an adapter's own mistake must not cost the task its work
            return f": {type(error).__name__}"  # its message may hold a key


def _response(
    made: Plan,
    started: float,
    method: CompressionMethod,
    *,
    text: str | None = None,
    error: str | None = None,
) -> CompressResponse:
    output_tokens = made.output_tokens if text is None else count_tokens(text)
    return CompressResponse(
        success=True,
        compressed_context=made.text if text is None else text,
        method=method,
        stats=CompressStats(
            input_tokens=made.input_tokens,
            output_tokens=output_tokens,
            ratio=round(output_tokens / max(made.input_tokens, 1), 4),
            duration_ms=round((time.perf_counter() - started) * 1000, 3),
        ),
        validation_passed=method != "deterministic-fallback",
        error=error,
    )


# A conversation


def chat_messages(said: Sequence[ThreadMessage], max_tokens: int) -> tuple[ChatMessage, ...]:
    """The latest messages that have at most so many tokens together, oldest first; a long one is cut short.

    The first is a user's, as providers want it.
    """
    chosen: list[ChatMessage] = []
    left, longest = max_tokens, max(1, max_tokens // _MESSAGE_SHARE)
    for message in reversed(said):
        content = clip(message.content, longest)
        left -= count_tokens(content)
        if left < 0:
            break
        if content.strip():
            chosen.append(ChatMessage(role=message.role, content=content))
    while chosen and chosen[-1].role != "user":
        chosen.pop()
    return tuple(reversed(chosen))


# Whether a model's text may stand for the deterministic one


def problem(text: str, plan: Plan) -> str | None:
    """Say why a model's text may not be used in place of the plan's, or None if it may.

    It may only if nothing needed was lost and nothing was invented: every name, number and unusual word of it
    stands in the original. Too strict is safe here: what is refused is replaced by the original, whole. Never
    repeats more of the text than the one term that is wrong.
    """
    original, made = _split_sections(plan.text), _split_sections(text)
    checks: Iterable[Iterator[str]] = (
        _shape(text, plan),
        _lost(made, original, plan),
        _leaked(text, original),
        _invented(text, plan.text),
    )
    return next((found for check in checks for found in check), None)


def _split_sections(text: str) -> dict[str, str]:
    _, *parts = _HEADER.split(text)
    sections: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        sections[name] = f"{sections.get(name, '')}{body}".strip()
    return sections


def _shape(text: str, plan: Plan) -> Iterator[str]:
    first = plan.text.partition("\n")[0]
    if not text.startswith(first):
        yield f"it does not begin with {first}"
    tokens = count_tokens(text)
    if tokens > plan.output_tokens:
        yield f"it is longer than what it was made from: {tokens} tokens instead of {plan.output_tokens}"


def _lost(made: dict[str, str], original: dict[str, str], plan: Plan) -> Iterator[str]:
    for name in original.keys() - _OPTIONAL_SECTIONS:
        if not made.get(name):
            yield f"section {name} is missing"
    metadata = _squeezed(made.get(METADATA, ""))
    for line in original.get(METADATA, "").splitlines():
        key, _, value = line.partition(": ")
        if key.lower() not in metadata or _squeezed(value) not in metadata:
            yield f"field {key} of {METADATA} is missing"
    everything = _squeezed(" ".join(made.values()))
    for wanted in plan.verbatim:
        if _squeezed(wanted) not in everything:
            yield "something that is to be kept word for word is missing"


def _squeezed(text: str) -> str:
    return " ".join(text.lower().split())


def _leaked(text: str, original: dict[str, str]) -> Iterator[str]:
    """Ids, scores and times, except those that stand in the sender's own text."""
    stated = " ".join(body for name, body in original.items() if name not in _OPTIONAL_SECTIONS)
    for what, pattern in _LEAKS.items():
        for match in pattern.finditer(text):
            if match[0] not in stated:
                yield f"it holds {what}"


def _invented(text: str, source: str) -> Iterator[str]:
    terms = {
        term.lower().removeprefix("v") if _is_version(term) else term.lower()
        for term in _TERM.findall(source)
    }
    words = forms(part for term in terms for part in _SEPARATOR.split(term) if part and not part[0].isdigit())
    for line in _MARKER.sub("", _HEADER.sub("", text)).splitlines():
        for match in _TERM.finditer(line):
            term = match[0]
            if not _stands(term, line[: match.start()], terms, words):
                yield f"{term!r} does not stand in what it was made from"


def _stands(term: str, before: str, terms: set[str], words: frozenset[str]) -> bool:
    if _is_version(term):
        return term.lower().removeprefix("v") in terms
    if term.lower() in terms:
        return True
    if any(character.isdigit() for character in term) or _SEPARATOR.search(term.removesuffix("'s")):
        return False
    if is_form_of(term, words):
        return True
    ordinary = term.islower() or (term.istitle() and bool(_SENTENCE_START.search(before)))
    return ordinary and is_form_of(term, common_forms())


def _is_version(term: str) -> bool:
    return bool(re.match(r"v?\d", term, re.IGNORECASE))
