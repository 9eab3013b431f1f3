"""The part context."""

from meshwright.core.part import Part

PART = Part(
    __name__,
    "context",
    component="component:ContextComponent",
    settings="settings:ContextSettings",
    words="event_words:WORDS",
)
