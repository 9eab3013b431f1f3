"""The part llmops."""

from meshwright.component import Part

PART = Part(
    __name__,
    "llmops",
    component="component:RegistryComponent",
    settings="settings:LlmopsSettings",
    events="event_types:EVENTS",
    resources="display:RESOURCES",
    commands={"registry": "Register versions of prompts, and say by labels which one is live."},
    heading="Mesh",
)
