"""The part coding."""

from meshwright.component import Part

PART = Part(
    __name__,
    "coding",
    component="component:CodingComponent",
    settings="settings:CodingSettings",
    events="event_types:EVENTS",
    heading="Mesh",
)
