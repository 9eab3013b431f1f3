"""The part experiments."""

from meshwright.core.part import Part

PART = Part(
    __name__,
    "experiments",
    component="component:ExperimentsComponent",
    settings="settings:ExperimentsSettings",
    words="display:WORDS",
    resources="display:RESOURCES",
    commands={
        "experiments": "Try variants of prompts, models and agents on live tasks.",
    },
    heading="Mesh",
)
