"""The part experiments."""

from meshwright.component import Part

PART = Part(
    __name__,
    "experiments",
    component="component:ExperimentsComponent",
    settings="settings:ExperimentsSettings",
    events="event_types:EVENTS",
    resources="display:RESOURCES",
    commands={"experiments": "Try variants of prompts, models and agents on live tasks."},
    heading="Mesh",
)
