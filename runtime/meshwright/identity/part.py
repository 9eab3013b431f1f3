"""The parts of callers: secrets, sign-in by OpenID Connect, keys."""

from meshwright.core.part import Part

SECRETS = Part(__name__, "secrets", settings="settings:SecretsSettings")
OIDC = Part(__name__, "oidc", component="component:OidcComponent", settings="settings:OidcSettings")
KEYS = Part(
    __name__,
    "keys",
    component="component:KeysComponent",
    settings="settings:KeysSettings",
    events="meshwright.ledger.event_types:KEY_EVENTS",
    resources="display:RESOURCES",
    commands={
        "keys": "Manage virtual API keys.",
        "erase": "Erase the contents of tasks for good.",
        "secrets": "Manage the keys that encrypt stored secrets.",
    },
    heading="Administration",
)
