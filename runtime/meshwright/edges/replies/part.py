"""The part replies."""

from meshwright.core.part import Part

PART = Part(
    __name__,
    "replies",
    component="component:RepliesComponent",
    events="meshwright.edges.event_types:REPLY_EVENTS",
)
