"""The part acp."""

from meshwright.component import Part

PART = Part(
    __name__, "acp", commands={"acp": "Serve an agent to an editor over stdin and stdout."}, heading="Work"
)
