"""Signing in to MCP servers at addresses by OAuth: a person does so once, and tokens are kept and renewed.

One actor for each server keeps them on every store, encrypted by the mesh's own key. The library speaks the
protocol: discovery, registration of a client, the code with its challenge, and renewal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from meshwright import MeshError
from meshwright.component import Actor, ActorRef, Turn, turn
from meshwright.core.redaction import foreign_words
from meshwright.engine.sql.encryption import Cipher
from meshwright.kit import ConfigError, Runtime, Struct, encode, printable, short, topics
from meshwright.parts.mcp.event_types import SignInChanged
from meshwright.parts.mcp.settings import LOOPBACK, McpClient

if TYPE_CHECKING:
    from httpx2 import Request
    from mcp.client.auth import OAuthClientProvider
    from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

SIGN_IN = "mcp-sign-in"
SIGNED_IN, SIGNED_OUT = "mcp.signed_in", "mcp.signed_out"
MAX_KEPT_CHARS = 64_000
_EARLY_SECONDS = 30.0  # before its end a token counts as over, when a process begins
_PATIENCE_SECONDS = 300.0  # of a person at a browser
_MAX_REQUEST_BYTES, _REQUEST_SECONDS = 16_384, 10.0
_CALLBACK = "/callback"
_PAGE = b"You may close this page and go back to the terminal.\n"


class SignedIn(Struct):
    """A sign-in to the server at `url`: its tokens, and the documents that renew them.

    All are documents of the library. Tokens go to the server of that address alone.
    """

    url: str
    tokens: dict[str, Any]
    client: dict[str, Any]
    authority: dict[str, Any] | None = None
    resource: dict[str, Any] | None = None
    expires_at: float | None = None


class SealedSignIn(Struct, frozen=False):
    """A sign-in as it is stored: JSON text that the mesh's cipher has encrypted; "" where there is none."""

    text: str = ""


class Renewal(Struct):
    """A sign-in that is encrypted anew: the text that is stored, and the one in its place."""

    before: str
    after: str


class SignInActor(Actor[SealedSignIn]):
    """Keeps the sign-in to one server; its id is the name of the server's table."""

    @turn
    def keep(self, turn: Turn, sealed: SealedSignIn) -> None:
        """Keep a sign-in in place of another, or none."""
        is_news = bool(self.state.text) is not bool(sealed.text)
        self.state.text = sealed.text
        if is_news:
            event_type = SIGNED_IN if sealed.text else SIGNED_OUT
            turn.publish(topics.MESH, event_type, SignInChanged(server=self.ref.id))

    @turn
    def renew(self, turn: Turn, renewal: Renewal) -> None:
        """Take the same sign-in as another text; tokens that came meanwhile stay."""
        if self.state.text == renewal.before:
            self.state.text = renewal.after


class SignIns:
    """The sign-ins of a mesh, from any of its processes."""

    def __init__(self, runtime: Runtime, cipher: Cipher) -> None:
        self._runtime = runtime
        self._cipher = cipher

    async def find(self, server: str) -> SignedIn | None:
        """The sign-in to a server. Raises ConfigError for one that the mesh's keys do not fit any more."""
        sealed = await self._runtime.read(ActorRef(SIGN_IN, server))
        if sealed is None or not sealed.text:
            return None
        try:
            return SignedIn.model_validate_json(self._cipher.decrypt(sealed.text))
        except ConfigError as error:
            raise ConfigError(
                "its tokens cannot be decrypted", remedy=f"Run: mesh mcp login {server}"
            ) from error

    async def has(self, server: str) -> bool:
        """Whether there is a sign-in to a server."""
        sealed = await self._runtime.read(ActorRef(SIGN_IN, server))
        return bool(sealed and sealed.text)

    async def keep(self, server: str, signed_in: SignedIn | None) -> None:
        """Keep a sign-in, or forget it; durable when this returns."""
        text = "" if signed_in is None else self._cipher.encrypt(encode(signed_in).decode())
        await self._runtime.call(ActorRef(SIGN_IN, server), "keep", SealedSignIn(text=text))

    async def renew(self, servers: Iterable[str]) -> int:
        """Encrypt the sign-ins to servers with the newest key; returns how many there are.

        Raises ConfigError for one that no key fits.
        """
        renewed = 0
        for server in servers:
            sealed = await self._runtime.read(ActorRef(SIGN_IN, server))
            if sealed is not None and sealed.text:
                renewal = Renewal(before=sealed.text, after=self._cipher.renew(sealed.text))
                await self._runtime.call(ActorRef(SIGN_IN, server), "renew", renewal)
                renewed += 1
        return renewed

    async def provider(self, server: str, url: str) -> OAuthClientProvider | None:
        """The tokens for requests to a server, renewed as they end; None without a sign-in there."""
        signed_in_before = await self.find(server)
        if signed_in_before is None or signed_in_before.url != url:
            return None

        async def keep(signed_in: SignedIn) -> None:
            await self.keep(server, signed_in)

        async def refuse(*address: str) -> None:
            raise MeshError("the server wants you to sign in again", remedy=f"Run: mesh mcp login {server}")

        return _provider(url, _Storage(url, signed_in_before, keep), show=refuse, wait=refuse)


class BrowserSignIn:
    """Signs a person in, who opens the address that `show` gets; the answer comes to a port here.

    `client` is one that was registered before; without it the server has to take a registration.
    """

    def __init__(self, url: str, show: Callable[[str], None], client: McpClient | None = None) -> None:
        self.signed_in: SignedIn | None = None
        self._url = url
        self._show = show
        self._client = client
        self._redirect = urlsplit(client.redirect_url if client else "")
        self._answer: asyncio.Future[Mapping[str, str]] | None = None
        self._listener: asyncio.Server | None = None

    async def provider(self) -> OAuthClientProvider:
        """Listen, and return what signs in as soon as the server wants it. Raises MeshError."""
        self._answer = asyncio.get_running_loop().create_future()
        port_number = self._redirect.port or 0
        try:
            self._listener = await asyncio.start_server(
                self._take, "127.0.0.1", port_number, limit=_MAX_REQUEST_BYTES
            )
        except OSError as error:
            problem = f"port {port_number} of redirect_url cannot be listened at: {error.strerror}"
            raise MeshError(problem, remedy="End the program that has it, and try again") from error
        port = self._listener.sockets[0].getsockname()[1]
        redirect = self._redirect.geturl() or f"http://127.0.0.1:{port}{_CALLBACK}"

        async def show(address: str) -> None:
            self._show(printable(address))

        async def keep(signed_in: SignedIn) -> None:
            self.signed_in = signed_in

        return _provider(
            self._url,
            _Storage(self._url, None, keep, _client_document(self._client, redirect)),
            show=show,
            wait=self._code,
            redirect=redirect,
        )

    async def close(self) -> None:
        """Listen no longer. Idempotent."""
        if self._listener is not None:
            self._listener.close()

    async def _code(self) -> Any:
        from mcp.client.auth import AuthorizationCodeResult

        assert self._answer is not None
        try:
            answer = await asyncio.wait_for(self._answer, _PATIENCE_SECONDS)
        except TimeoutError:
            raise MeshError(f"there was no sign-in within {_PATIENCE_SECONDS:g} seconds") from None
        if "code" not in answer:
            why = answer.get("error_description") or answer["error"]
            raise MeshError(f"the sign-in was refused: {short(foreign_words(why))}")
        return AuthorizationCodeResult(code=answer["code"], state=answer.get("state"), iss=answer.get("iss"))

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a browser; the first request to the path that has a code or an error counts."""
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            target = urlsplit(head.split(b" ", 2)[1].decode())
            answer = {name: values[0] for name, values in parse_qs(target.query).items()}
            is_ours = target.path == (self._redirect.path or _CALLBACK) and bool(
                answer.keys() & {"code", "error"}
            )
            if is_ours and self._answer is not None and not self._answer.done():
                self._answer.set_result(answer)
            status = b"200 OK" if is_ours else b"404 Not Found"
            length = str(len(_PAGE)).encode()
            writer.write(b"HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: " % status)
            writer.write(length + b"\r\nConnection: close\r\n\r\n" + _PAGE)
            await writer.drain()
        except (TimeoutError, OSError, ValueError, IndexError, asyncio.IncompleteReadError):
            pass  # it is no browser of ours, or has gone
        except asyncio.LimitOverrunError:
            pass
        finally:
            writer.close()


class _Storage:
    """Gives the library the tokens, or the client to get them with; each renewal is stored whole."""

    def __init__(
        self,
        url: str,
        signed_in: SignedIn | None,
        keep: Callable[[SignedIn], Awaitable[None]],
        client: dict[str, Any] | None = None,
    ) -> None:
        self.known = signed_in
        self._client = signed_in.client if signed_in is not None else client
        self.provider: OAuthClientProvider | None = None
        self._url = url
        self._keep = keep

    async def get_tokens(self) -> OAuthToken | None:
        from mcp.shared.auth import OAuthToken

        return None if self.known is None else OAuthToken.model_validate(self.known.tokens)

    async def set_tokens(self, tokens: OAuthToken) -> None:
        assert self.provider is not None
        context = self.provider.context
        self.known = SignedIn(
            url=self._url,
            tokens=_document(tokens) or {},
            client=_document(context.client_info) or {},
            authority=_document(context.oauth_metadata),
            resource=_document(context.protected_resource_metadata),
            expires_at=context.token_expiry_time,
        )
        await self._keep(self.known)

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        from mcp.shared.auth import OAuthClientInformationFull

        return None if self._client is None else OAuthClientInformationFull.model_validate(self._client)

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Nothing: it is kept with the tokens."""


def _client_document(client: McpClient | None, redirect: str) -> dict[str, Any] | None:
    if client is None:
        return None
    secret = {"client_secret": client.secret, "token_endpoint_auth_method": "client_secret_basic"}
    plain = {"token_endpoint_auth_method": "none"}
    return {"client_id": client.id, "redirect_uris": [redirect], **(secret if client.secret else plain)}


def _provider(
    url: str,
    storage: _Storage,
    *,
    show: Callable[[str], Awaitable[None]],
    wait: Callable[[], Awaitable[Any]],
    redirect: str = "http://127.0.0.1/callback",
) -> OAuthClientProvider:
    from mcp.client.auth import OAuthClientProvider
    from mcp.shared.auth import OAuthClientMetadata, OAuthMetadata, ProtectedResourceMetadata

    metadata = OAuthClientMetadata.model_validate({"client_name": "Meshwright", "redirect_uris": [redirect]})
    provider = OAuthClientProvider(url, metadata, storage, show, wait)
    storage.provider = provider
    if (signed_in := storage.known) is not None:  # the library finds these out at a sign-in alone
        context = provider.context
        if signed_in.authority is not None:
            context.oauth_metadata = OAuthMetadata.model_validate(signed_in.authority)
        if signed_in.resource is not None:
            context.protected_resource_metadata = ProtectedResourceMetadata.model_validate(signed_in.resource)
        if signed_in.expires_at is not None:
            context.token_expiry_time = signed_in.expires_at - _EARLY_SECONDS
    return provider


def only_safe(url: str) -> Callable[[Request], Awaitable[None]]:
    """A check of each request: it goes over https, or stays on this machine where the server is here."""
    is_here = urlsplit(url).hostname in LOOPBACK

    async def check(request: Request) -> None:
        is_safe = request.url.scheme == "https" or (is_here and request.url.host in LOOPBACK)
        if not is_safe:
            raise MeshError(
                f"the server sends us to {short(str(request.url))}, which is neither https nor here"
            )

    return check


def _document(model: Any) -> dict[str, Any] | None:
    return None if model is None else model.model_dump(mode="json", exclude_none=True)
