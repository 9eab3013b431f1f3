"""The part schedules."""

from meshwright.component import Part

PART = Part(
    __name__,
    "schedules",
    component="component:SchedulesComponent",
    settings="settings:SchedulesSettings",
    events="event_types:EVENTS",
    resources="display:RESOURCES",
    commands={"schedules": "List schedules, make them, pause, resume and run them."},
    heading="Mesh",
)
