"""The part sinks."""

from meshwright.component import Part

PART = Part(
    __name__,
    "sinks",
    component="component:Sinks",
    settings="settings:SinksSettings",
    needs=("sinks",),
    events="event_types:EVENTS",
)
