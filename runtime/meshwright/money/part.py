"""The part ledger."""

from meshwright.core.part import Part

PART = Part(
    __name__,
    "ledger",
    component="component:LedgerComponent",
    settings="settings:LedgerSettings",
    events="event_types:EVENTS",
    resources="display:RESOURCES",
    commands={
        "money": "Show costs and budgets, raise budgets, allow agents an amount a day.",
        "costs": "Sum up what model calls cost.",
        "budgets": "Show budgets and spend, and raise them.",
        "allow": "Allow an agent, a tenant or a tag an amount a day.",
    },
    heading="Work",
    short_for={"costs": "money costs", "budgets": "money budgets", "allow": "money allow"},
)
