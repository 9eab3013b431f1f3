"""The part sandbox."""

from meshwright.core.part import Part

PART = Part(
    __name__,
    "sandbox",
    component="component:SandboxComponent",
    settings="settings:SandboxSettings",
    events="event_types:EVENTS",
)
