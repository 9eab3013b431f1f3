"""The parts of the event log."""

from meshwright.core.part import Part

AUDIT = Part(
    __name__,
    "audit",
    component="component:AuditComponent",
    settings="settings:AuditSettings",
    events="event_types:EVENTS",
)
TRACING = Part(
    __name__, "tracing", component="component:TracingComponent", settings="settings:TracingSettings"
)
PEOPLE = Part(__name__, "people", component="component:PeopleComponent", settings="settings:PeopleSettings")
