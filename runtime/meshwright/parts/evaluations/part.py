"""The part evaluations."""

from meshwright.component import Part

PART = Part(
    __name__,
    "evaluations",
    component="component:EvaluationsComponent",
    settings="settings:EvaluationsSettings",
    events="event_types:EVENTS",
    resources="display:RESOURCES",
    commands={
        "evaluate": "Evaluate an agent on a file of questions, for CI.",
        "evaluations": "List evaluations, show one with its figures, delete one.",
    },
    heading="Mesh",
)
