"""The part skills."""

from meshwright.core.part import Part

PART = Part(
    __name__,
    "skills",
    component="component:SkillsComponent",
    settings="settings:SkillsSettings",
    events="event_types:EVENTS",
    commands={"skills": "List the skills of agents, and check their files."},
    heading="Mesh",
)
