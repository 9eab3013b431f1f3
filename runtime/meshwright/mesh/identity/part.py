"""The parts of callers: secrets, sign-in by OpenID Connect."""

from meshwright.core.part import Part

SECRETS = Part(__name__, "secrets", settings="settings:SecretsSettings")
OIDC = Part(__name__, "oidc", component="component:OidcComponent", settings="settings:OidcSettings")
