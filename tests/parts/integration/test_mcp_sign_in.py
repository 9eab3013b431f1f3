"""MCP servers that want somebody to sign in: once with a browser, then the mesh renews the tokens."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from httpx2 import Request
from mcp.shared.auth import OAuthClientInformationFull
from msgspec.structs import replace

from meshwright import MeshError
from meshwright.agents.loader import BoundAgents
from meshwright.core.encoding import encode
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.mesh.app import build_mesh
from meshwright.mesh.identity.administration import Administration
from meshwright.parts.mcp.connection import ServerConnection
from meshwright.parts.mcp.operations import McpOperations
from meshwright.parts.mcp.settings import McpClient, McpServer
from meshwright.parts.mcp.sign_in import SIGN_IN, BrowserSignIn, Renewal, SignedIn, SignIns, only_safe
from meshwright.parts.stack.machine import Ports
from meshwright.testing import MeshUnderTest, ScriptedModel, tool_call
from tests.parts.integration.test_mcp_http import Caller, results
from tests.parts.unit.test_mcp import ADMIN
from tests.support.mcp_authority import Authority, guarded_server
from tests.support.settings import load_settings


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def url(authority: Authority) -> AsyncIterator[str]:
    async with guarded_server(authority) as url:
        yield url


async def mesh_command(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run `mesh` in a folder, and open the address that it shows as a browser does; its status and text."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshwright", *arguments),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert running.stdout is not None
    text = ""
    async with asyncio.timeout(240), aiohttp.ClientSession() as browser:
        async for line in running.stdout:
            text += line.decode()
            if found := re.match(r"http://\S+/authorize\?\S+", line.decode()):
                async with browser.get(found[0]) as page:
                    assert "close this page" in await page.text()
        return await running.wait(), text


@asynccontextmanager
async def mesh_of(folder: Path, url: str, *replies: Any) -> AsyncIterator[MeshUnderTest]:
    table = {"url": url, "tools": ["*"], "approve": "never"}
    settings = load_settings(folder, data_dir=folder / "data", mcp={"shop": table})
    model = ScriptedModel(*replies)
    async with build_mesh(settings, project=folder, agents=[Caller], model=model) as mesh:
        yield MeshUnderTest(mesh, model, None)


async def signed_in(url: str, client: McpClient | None = None) -> SignedIn:
    """Sign in with a browser in this process."""
    async with aiohttp.ClientSession() as session:
        opened: list[asyncio.Task[Any]] = []
        browser = BrowserSignIn(
            url, lambda address: opened.append(asyncio.create_task(_open(session, address))), client
        )
        auth = await browser.provider()
        connection = ServerConnection(McpServer(url=url), Path(), lambda reason: None, lambda: None, auth)
        try:
            await connection.open()
            assert [tool.name for tool in await connection.tools()] == ["look"]
        finally:
            await connection.close()
            await browser.close()
            await asyncio.gather(*opened)
    assert browser.signed_in is not None
    return browser.signed_in


async def _open(session: aiohttp.ClientSession, address: str) -> None:
    async with session.get(address) as page:
        await page.read()


async def test_a_person_signs_in_once_and_tokens_are_renewed(
    tmp_path: Path, url: str, authority: Authority
) -> None:
    authority.expires_in = 20  # the mesh counts the last half minute as over
    options = ("--at", url, "--tools", "*", "--agents", "caller", "--data", str(tmp_path / "data"))
    status, text = await mesh_command(tmp_path, "mcp", "add", "shop", *options)
    assert status == 0 and "look" in text and "signed in to shop" in text, text
    for renewals in (1, 2):
        async with mesh_of(tmp_path, url, tool_call("shop_look"), "Done.") as mesh:
            await mesh.ask("caller", "Go.")
            assert results(mesh.model) == ["a secret"]
        assert (authority.sign_ins, authority.renewals) == (1, renewals)
    kept = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    for shown in (text.encode(), kept):
        assert b"access-" not in shown and b"refresh-" not in shown


async def test_tokens_that_were_revoked_are_told_with_their_remedy(
    tmp_path: Path, url: str, authority: Authority
) -> None:
    async with mesh_of(tmp_path, url, "Without.") as mesh:
        await mesh.mesh.get(McpOperations).sign_in(ADMIN, "shop", encode(await signed_in(url)).decode())
        [view] = (await mesh.mesh.get(McpOperations).list_servers(ADMIN)).items
        assert view.signed_in
        authority.revoke()
        clients = len(authority.clients)
        await mesh.ask("caller", "Go.")
        [shared] = mesh.mesh.get(BoundAgents)["caller"].toolsets
        assert "wants you to sign in again" in shared.status and "mesh mcp login shop" in shared.status
        assert len(authority.clients) == clients, "no worker registers clients"
        await mesh.mesh.get(McpOperations).sign_out(ADMIN, "shop")
        assert await mesh.mesh.get(SignIns).find("shop") is None


async def test_a_server_that_nobody_has_signed_in_to_is_told_with_its_remedy(
    tmp_path: Path, url: str, authority: Authority
) -> None:
    async with mesh_of(tmp_path, url, "Without.") as mesh:
        await mesh.ask("caller", "Go.")
        [shared] = mesh.mesh.get(BoundAgents)["caller"].toolsets
        assert "401 Unauthorized: sign in by mesh mcp login" in shared.status
    assert not authority.clients


async def test_tokens_go_to_no_other_address_and_over_no_open_line(tmp_path: Path, url: str) -> None:
    async with mesh_of(tmp_path, url) as mesh:
        sign_ins = mesh.mesh.get(SignIns)
        await sign_ins.keep("shop", await signed_in(url))
        assert await sign_ins.provider("shop", url) is not None
        assert await sign_ins.provider("shop", url.replace("127.0.0.1", "localhost")) is None
    for server, address in ((url, "http://example.com/token"), ("https://a.example/mcp", url)):
        with pytest.raises(MeshError, match="neither https nor here"):
            await only_safe(server)(Request("GET", address))


async def test_a_sign_in_that_is_refused_says_so(url: str, authority: Authority) -> None:
    authority.refuses = True
    with pytest.raises(MeshError, match="the sign-in was refused: access_denied"):
        await signed_in(url)


@pytest.mark.parametrize("secret", ["", "the-secret-of-the-client"])
async def test_registered_client_signs_in_where_no_registration_is_taken(tmp_path: Path, secret: str) -> None:
    authority = Authority(expires_in=20)  # the mesh counts the last half minute as over
    authority.takes_registrations = False
    with closing(Ports()) as ports:
        redirect = f"http://localhost:{ports.take(1)[0]}/back"
        known = {"client_id": "ours", "client_secret": secret or None, "redirect_uris": [redirect]}
        method = {"token_endpoint_auth_method": "client_secret_basic" if secret else "none"}
        authority.clients["ours"] = OAuthClientInformationFull.model_validate({**known, **method})
        async with guarded_server(authority) as url:
            with pytest.raises(MeshError):
                await signed_in(url)
            got = await signed_in(url, McpClient("ours", secret, redirect))
            assert (got.client["client_id"], got.client.get("client_secret", "")) == ("ours", secret)
            async with mesh_of(tmp_path, url, tool_call("shop_look"), "Done.") as mesh:
                await mesh.mesh.get(SignIns).keep("shop", got)
                await mesh.ask("caller", "Go.")
                assert results(mesh.model) == ["a secret"]
    assert (authority.sign_ins, authority.renewals, [*authority.clients]) == (1, 1, ["ours"])


async def test_client_of_the_settings_is_that_of_the_login(tmp_path: Path) -> None:
    authority = Authority()
    authority.takes_registrations = False
    with closing(Ports()) as ports:
        redirect = f"http://localhost:{ports.take(1)[0]}/callback"
        known = {"client_id": "ours", "redirect_uris": [redirect], "token_endpoint_auth_method": "none"}
        authority.clients["ours"] = OAuthClientInformationFull.model_validate(known)
        async with guarded_server(authority) as url:
            client = f'client_id = "ours"\nredirect_url = "{redirect}"\n'
            (tmp_path / "mesh.toml").write_text(f'[mcp.shop]\nurl = "{url}"\ntools = ["*"]\n{client}')
            data = ("--data", str(tmp_path / "data"))
            status, text = await mesh_command(tmp_path, "mcp", "login", "shop", *data)
    assert status == 0 and "signed in to shop" in text, text


async def test_secrets_rotate_encrypts_the_tokens_anew(tmp_path: Path, url: str) -> None:
    async with mesh_of(tmp_path, url) as mesh:
        mcp, admin = mesh.mesh.get(McpOperations), Administration(mesh.mesh, ADMIN)
        tokens = await signed_in(url)
        await mcp.sign_in(ADMIN, "shop", encode(tokens).decode())
        keys = tmp_path / "data" / "secret.key"
        before = keys.read_text().splitlines()
        assert (await admin.rotate_secrets()).renewed == 1
        keys.write_text("\n".join(line for line in keys.read_text().splitlines() if line not in before))
    async with mesh_of(tmp_path, url, tool_call("shop_look"), "Done.") as mesh:
        assert await mesh.mesh.get(SignIns).find("shop") == tokens, "the newest key alone reads them"
        await mesh.ask("caller", "Go.")
        assert results(mesh.model) == ["a secret"]


async def test_tokens_that_came_during_a_rotation_stay(tmp_path: Path, url: str) -> None:
    async with mesh_of(tmp_path, url) as mesh:
        sign_ins, runtime, place = mesh.mesh.get(SignIns), mesh.mesh.runtime, ActorRef(SIGN_IN, "shop")
        await sign_ins.keep("shop", old := await signed_in(url))
        read = (await runtime.read(place)).text
        await sign_ins.keep("shop", newer := replace(old, expires_at=9.0))
        await runtime.call(place, "renew", Renewal(before=read, after=mesh.mesh.cipher.renew(read)))
        assert await sign_ins.find("shop") == newer
