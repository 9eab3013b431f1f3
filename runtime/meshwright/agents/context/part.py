"""The part context."""

from meshwright.core.part import Part

PART = Part(
    __name__,
    "context",
    component="component:ContextComponent",
    settings="settings:ContextSettings",
    events="event_types:EVENTS",
)
