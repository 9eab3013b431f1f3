"""A small authorization server with an MCP server behind it, for tests: it lets everybody in who asks.

Registration, authorization code with challenge, renewal and their documents are the library's own handlers;
this keeps codes and tokens in memory, and says yes in place of a person.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from mcp import types
from mcp.server import Server
from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    ProviderTokenVerifier,
    RefreshToken,
    construct_redirect_uri,
)
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from pydantic import AnyHttpUrl

_FAR = 4_102_444_800  # in 2100


class Authority:
    """Gives tokens that say to end after `expires_in` seconds, and here last until they are `revoked`."""

    def __init__(self, expires_in: int = 3_600) -> None:
        self.expires_in = expires_in
        self.clients: dict[str, OAuthClientInformationFull] = {}
        self.codes: dict[str, AuthorizationCode] = {}
        self.access: dict[str, str] = {}
        self.refresh: dict[str, str] = {}
        self.renewals = self.sign_ins = 0
        self.refuses = False
        self.takes_registrations = True
        self.resource: str | None = None
        """The server that the tokens are for, as the client has named it."""

    def revoke(self) -> None:
        """Forget all tokens."""
        self.access, self.refresh = {}, {}

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        return self.clients.get(client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        self.clients[client_info.client_id] = client_info

    async def authorize(self, client: OAuthClientInformationFull, params: AuthorizationParams) -> str:
        redirect = str(params.redirect_uri)
        if self.refuses:
            return construct_redirect_uri(redirect, error="access_denied", state=params.state)
        code, self.resource = secrets.token_urlsafe(32), params.resource
        self.codes[code] = AuthorizationCode(
            code=code,
            scopes=params.scopes or [],
            expires_at=time.time() + 60,
            client_id=client.client_id,
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            resource=params.resource,
        )
        return construct_redirect_uri(redirect, code=code, state=params.state)

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: str
    ) -> AuthorizationCode | None:
        return self.codes.get(authorization_code)

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: AuthorizationCode
    ) -> OAuthToken:
        del self.codes[authorization_code.code]
        self.sign_ins += 1
        return self._tokens(client.client_id)

    async def load_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: str
    ) -> RefreshToken | None:
        owner = self.refresh.get(refresh_token)
        return None if owner is None else RefreshToken(token=refresh_token, client_id=owner, scopes=[])

    async def exchange_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        del self.refresh[refresh_token.token]  # each is for one renewal
        self.renewals += 1
        return self._tokens(client.client_id)

    async def load_access_token(self, token: str) -> AccessToken | None:
        owner = self.access.get(token)
        if owner is None:
            return None
        known = {"client_id": owner, "expires_at": _FAR, "resource": self.resource}
        return AccessToken.model_validate({"token": token, "scopes": [], **known})

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        self.revoke()

    async def exchange_identity_assertion(self, *arguments: Any) -> OAuthToken:
        raise NotImplementedError

    def _tokens(self, client_id: str) -> OAuthToken:
        access, refresh = f"access-{secrets.token_hex(16)}", f"refresh-{secrets.token_hex(16)}"
        self.access[access] = self.refresh[refresh] = client_id
        return OAuthToken(access_token=access, refresh_token=refresh, expires_in=self.expires_in)


@asynccontextmanager
async def guarded_server(authority: Authority) -> AsyncIterator[str]:
    """The address of an MCP server with the tool `look`, which takes a token of the authority."""

    async def listed(context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name="look", input_schema={"type": "object"})])

    async def called(context: Any, params: Any) -> types.CallToolResult:
        return types.CallToolResult(content=[types.TextContent(type="text", text="a secret")])

    config = uvicorn.Config(lambda: None, host="127.0.0.1", port=0, log_level="critical", lifespan="on")
    socket = config.bind_socket()
    base = f"http://127.0.0.1:{socket.getsockname()[1]}"
    server = Server("guarded", on_list_tools=listed, on_call_tool=called)
    config.app = server.streamable_http_app(
        auth=AuthSettings(
            issuer_url=AnyHttpUrl(base),
            resource_server_url=AnyHttpUrl(f"{base}/mcp"),
            validate_token_resource=True,
            client_registration_options=ClientRegistrationOptions(enabled=authority.takes_registrations),
        ),
        auth_server_provider=authority,
        token_verifier=ProviderTokenVerifier(authority),
    )
    running = uvicorn.Server(config)
    serving = asyncio.create_task(running.serve(sockets=[socket]))
    try:
        yield f"{base}/mcp"
    finally:
        running.should_exit = True
        await serving
