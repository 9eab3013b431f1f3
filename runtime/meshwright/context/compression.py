"""From a request to the text for its receiver, by rules: pure, and quick enough for every task."""

from __future__ import annotations

from meshwright.context.request import CompressRequest, Plan
from meshwright.context.rules import Rules
from meshwright.context.sections import draft
from meshwright.context.tokens import count_tokens


def plan(request: CompressRequest, rules: Rules) -> Plan:
    """Apply the rule of a request's sender and receiver to it, and count what came of it."""
    rule = rules.find(request.sender, request.receiver)
    made = draft(request, rule)
    text = made.render()
    tokens = count_tokens(text)
    # Built here, from checked parts: checking it again would take longer than making it.
    return Plan.model_construct(
        version=1,
        text=text,
        input_tokens=tokens + (count_tokens("\n".join(made.dropped)) if made.dropped else 0),
        output_tokens=tokens,
        token_ceiling=rule.token_ceiling,
        verbatim=made.verbatim() if tokens > rule.token_ceiling else [],
    )
