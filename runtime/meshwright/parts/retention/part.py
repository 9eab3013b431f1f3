"""The part retention."""

from meshwright.component import Part

PART = Part(
    __name__,
    "retention",
    component="component:RetentionComponent",
    settings="settings:RetentionSettings",
    events="event_types:EVENTS",
    commands={"prune": "Have old tasks leave the lists, and erase their contents."},
    heading="Mesh",
)
