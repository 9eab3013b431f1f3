"""The part sandbox."""

from meshwright.core.part import Part

PART = Part(
    __name__,
    "sandbox",
    component="component:SandboxComponent",
    settings="settings:SandboxSettings",
    words="event_words:WORDS",
)
