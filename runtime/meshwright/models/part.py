"""The part models."""

from meshwright.core.part import Part

PART = Part(
    __name__,
    "models",
    component="component:ModelsComponent",
    settings="settings:ModelsSettings",
    events="meshwright.core.model_events:EVENTS",
    commands={"models": "Show groups, deployments, tags and prices; say where a call goes."},
    heading="Mesh",
)
