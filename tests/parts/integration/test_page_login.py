"""Logins of browsers at an OIDC issuer: the code flow against the real Dex, and what attackers try of it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import pytest
import yarl
from playwright.async_api import expect

from meshwright.core.errors import ConfigError
from meshwright.edges.http.server import serving
from meshwright.parts.page import login
from meshwright.parts.stack.machine import Ports
from tests.support.chromium import chromium
from tests.support.dex_issuer import PASSWORD, SECRET, DexIssuer, dex_issuer
from tests.support.fake_issuer import AUDIENCE, FakeIssuer, fake_issuer
from tests.support.http_mesh import Api, http_mesh
from tests.support.page import TOKEN
from tests.support.settings import load_settings

PEOPLE = {"ada": ("acme", ["mesh-users"]), "eve": ("other", ["mesh-users"])}
ROLES = {"mesh-users": ["submitter", "viewer"]}
CLAIMS = {"tenant_claim": "preferred_username", "roles_claim": "groups", "roles": ROLES, "login": True}
CALLBACK = "/session/callback"
MILLISECONDS = 60_000


class Answer(NamedTuple):
    """An answer to a browser."""

    status: int
    location: str
    text: str
    cookies: dict[str, Any]

    @property
    def is_login(self) -> bool:
        """Whether it logs the browser in."""
        return any("mesh_session" in name for name in self.cookies)

    @property
    def query(self) -> dict[str, str]:
        """The query of the address to which it leads."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.location).query).items()}


class Visitor:
    """A browser with its cookies, which goes where the test says."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.jar = aiohttp.CookieJar(unsafe=True)  # keeps cookies of addresses too
        self.session = aiohttp.ClientSession(cookie_jar=self.jar)

    async def visit(self, path: str, **headers: str) -> Answer:
        """Go to a path or an address; no redirect is followed."""
        to = path if path.startswith("http") else f"{self.url}{path}"
        async with self.session.get(to, allow_redirects=False, headers=headers) as answer:
            cookies = {name: morsel.value for name, morsel in answer.cookies.items()}
            return Answer(answer.status, answer.headers.get("Location", ""), await answer.text(), cookies)

    async def begin(self, **headers: str) -> Answer:
        """Ask for a login at the issuer."""
        answer = await self.visit("/session/oidc", **headers)
        assert answer.status == 303, answer
        return answer

    async def come_back(self, **query: str) -> Answer:
        """Come back from the issuer, as it or an attacker says."""
        return await self.visit(f"{CALLBACK}?{urlencode(query)}")

    async def me(self) -> dict[str, Any] | None:
        """The caller that the mesh takes the browser for."""
        async with self.session.get(f"{self.url}/me") as answer:
            return await answer.json() if answer.status == 200 else None

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies that it would send."""
        sent = self.jar.filter_cookies(yarl.URL(self.url))
        return {name: morsel.value for name, morsel in sent.items()}


@asynccontextmanager
async def visitors(url: str, number: int = 1) -> AsyncIterator[list[Visitor]]:
    found = [Visitor(url) for _ in range(number)]
    try:
        yield found
    finally:
        await asyncio.gather(*[visitor.session.close() for visitor in found])


class Dex(NamedTuple):
    """A mesh at `url` whose page logs people in at Dex."""

    issuer: DexIssuer
    api: Api
    url: str


@asynccontextmanager
async def behind_dex(folder: Path, **oidc: Any) -> AsyncIterator[Dex]:
    ports = Ports()
    [port] = ports.take(1)
    url = f"http://127.0.0.1:{port}"
    try:
        async with dex_issuer(folder / "dex", PEOPLE, sends_back_to=f"{url}{CALLBACK}") as issuer:
            settings = {"issuer": issuer.url, "audience": "meshwright", "client_secret": SECRET, **CLAIMS}
            settings |= {"scopes": ["profile", "groups"], **oidc}
            async with (
                http_mesh(folder, admin_token=TOKEN, oidc=settings) as api,
                serving(api.mesh, "127.0.0.1", port),
            ):
                yield Dex(issuer, api, url)
    finally:
        ports.close()


@asynccontextmanager
async def behind_fake(folder: Path, **oidc: Any) -> AsyncIterator[tuple[FakeIssuer, Visitor, Visitor]]:
    """A mesh that logs people in at an issuer which says what the test wants, and two browsers."""
    async with fake_issuer() as issuer:
        settings = {"issuer": issuer.url, "audience": AUDIENCE, **CLAIMS, **oidc}
        async with http_mesh(folder, oidc=settings) as api, visitors(api.url, 2) as [browser, other]:
            yield issuer, browser, other


def claims(begun: Answer, **changed: Any) -> dict[str, Any]:
    """The claims of an honest issuer for a login that has begun."""
    known = {"nonce": begun.query["nonce"], "preferred_username": "acme", "groups": ["mesh-users"]}
    return {**known, **changed}


# With Dex


async def test_a_person_logs_in_at_dex_and_out_again(tmp_path: Path) -> None:
    async with behind_dex(tmp_path) as dex, visitors(dex.url) as [browser]:
        assert (await dex.api.get("/session"))["oidc"] == urlsplit(dex.issuer.url).netloc
        begun = await browser.begin()
        assert begun.location.startswith(f"{dex.issuer.url}/auth?")
        asked = begun.query
        assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
        assert asked["redirect_uri"] == f"{dex.url}{CALLBACK}" and SECRET not in begun.location
        back = await dex.issuer.send_back(begun.location, "ada")
        answer = await browser.visit(back)
        assert (answer.status, answer.location) == (303, "/")
        me = await browser.me()
        assert me is not None and me["name"].startswith("oidc:") and me["logged_in"]
        assert (me["tenant_id"], me["roles"]) == ("acme", ["submitter", "viewer"])
        port = urlsplit(dex.url).port
        assert list(browser.cookies) == [f"mesh_session_{port}"]  # the one of the way there is gone
        async with browser.session.get(f"{dex.url}/events/stream") as stream:
            assert stream.status == 200
            async with browser.session.delete(f"{dex.url}/session") as left:
                assert left.status == 204
            assert "stream.ended" in await stream.text()
        assert await browser.me() is None


async def test_a_state_or_code_that_was_used_or_is_of_another_browser_logs_nobody_in(tmp_path: Path) -> None:
    async with behind_dex(tmp_path) as dex, visitors(dex.url, 3) as [ada, eve, third]:
        back = await dex.issuer.send_back((await ada.begin()).location, "ada")
        of_eve = await eve.begin()

        # An attacker's link: a browser that began nothing, and one that began another login.
        for victim in (third, eve):
            refused = await victim.visit(back)
            assert refused.status == 422 and "not begun that login" in refused.text
            assert not refused.is_login
        # The code of one in the login of another: the proof of the key does not fit it.
        code = parse_qs(urlsplit(back).query)["code"][0]
        mixed = await eve.come_back(code=code, state=of_eve.query["state"])
        assert mixed.status == 401 and not mixed.is_login

        begun = await ada.begin()
        back = await dex.issuer.send_back(begun.location, "ada")
        assert (await ada.visit(back)).status == 303
        assert (await ada.visit(back)).status == 422  # its cookie is used up
        again = await third.visit(
            back, Cookie=f"mesh_login={begun.cookies['mesh_login']}"
        )  # a copy: the code is used up
        assert again.status == 401 and "refused the login" in again.text
        assert [await browser.me() is None for browser in (ada, eve, third)] == [False, True, True]


async def test_dex_refuses_a_wrong_secret_and_the_page_says_what_to_correct(tmp_path: Path) -> None:
    wrong = "sk-mesh-WrongSecretWrongSecret0123"
    async with behind_dex(tmp_path, client_secret=wrong) as dex, visitors(dex.url) as [browser]:
        back = await dex.issuer.send_back((await browser.begin()).location, "ada")
        refused = await browser.visit(back, Accept="text/html")
        assert refused.status == 401 and "oidc.client_secret" in refused.text and wrong not in refused.text
        assert refused.text.startswith("<!doctype html>") and await browser.me() is None


# With an issuer that says what an attacker wants


async def test_a_token_that_does_not_belong_to_the_login_is_refused(tmp_path: Path) -> None:
    async with behind_fake(tmp_path) as (issuer, browser, _), fake_issuer() as other:
        issuer.add("second", "ES256")
        for name, made in {
            "changed nonce": lambda begun: issuer.token(**claims(begun, nonce="another")),
            "no nonce": lambda begun: issuer.token(**claims(begun, nonce=None)),
            "nonce that is no text": lambda begun: issuer.token(**claims(begun, nonce=["x"])),
            "other audience": lambda begun: issuer.token(**claims(begun, aud="another")),
            "other client": lambda begun: issuer.token(**claims(begun, aud=[AUDIENCE, "x"], azp="x")),
            "other issuer": lambda begun: other.token(**claims(begun)),
            "its name, others' key": lambda begun: other.token(**claims(begun, iss=issuer.url)),
            "over": lambda begun: issuer.token(**claims(begun, exp=1)),
            "no token": lambda begun: None,
            "no text": lambda begun: {"x": 1},
            "too long": lambda begun: issuer.token(**claims(begun, x="x" * 20_000)),
        }.items():
            begun = await browser.begin()
            issuer.for_code = (200, {"id_token": made(begun)})
            refused = await browser.come_back(code="c", state=begun.query["state"])
            assert (refused.status, refused.is_login) == (401, False), (name, refused)
        begun = await browser.begin()
        issuer.for_code = (200, {"id_token": issuer.token("second", **claims(begun, azp=AUDIENCE))})
        assert (await browser.come_back(code="c", state=begun.query["state"])).status == 303
        proof = hashlib.sha256(issuer.forms[-1]["code_verifier"].encode()).digest()
        assert base64.urlsafe_b64encode(proof).decode().rstrip("=") == begun.query["code_challenge"]
        assert issuer.forms[-1]["client_id"] == AUDIENCE  # a public client says who it is, and no secret
        assert issuer.forms[-1]["authorization"] is None and "client_secret" not in issuer.forms[-1]


async def test_an_answer_of_another_issuer_is_refused_before_its_code_is_sent(tmp_path: Path) -> None:
    async with behind_fake(tmp_path) as (issuer, browser, _):
        issuer.discovery["authorization_response_iss_parameter_supported"] = True
        for query in ({}, {"iss": "https://elsewhere.example"}, {"iss": f"{issuer.url}/"}):
            state = (await browser.begin()).query["state"]
            assert (await browser.come_back(code="c", state=state, **query)).status == 401
        assert issuer.forms == []
        begun = await browser.begin()
        issuer.for_code = (200, {"id_token": issuer.token(**claims(begun))})
        assert (await browser.come_back(code="c", state=begun.query["state"], iss=issuer.url)).status == 303


async def test_mixed_up_claims_give_no_tenant_and_no_role(tmp_path: Path) -> None:
    async with behind_fake(tmp_path) as (issuer, browser, _):
        for tenant in (None, "", "*", ["acme"], "acme\nother", "a" * 65, 7, {"acme": 1}):
            begun = await browser.begin()
            token = issuer.token(**claims(begun, preferred_username=tenant))
            issuer.for_code = (200, {"id_token": token})
            refused = await browser.come_back(code="c", state=begun.query["state"])
            assert refused.status == 401 and "names no tenant" in refused.text, tenant
            assert await browser.me() is None
        for groups in (None, {"mesh-users": 1}, "admin operator", [["mesh-users"]], ["viewer", "admin"], 7):
            begun = await browser.begin()
            token = issuer.token(**claims(begun, groups=groups, roles=["admin"], all_tenants=True))
            issuer.for_code = (200, {"id_token": token})
            assert (await browser.come_back(code="c", state=begun.query["state"])).status == 303
            me = await browser.me()
            assert me is not None and (me["roles"], me["all_tenants"]) == ([], False), groups


async def test_the_words_of_an_issuer_that_refuses_are_masked_and_shown_as_text(tmp_path: Path) -> None:
    secret = "ghp_0123456789abcdefghijABCDEFGHIJ456789"
    said = {
        "error": "access_denied",
        "error_description": f"<script>alert(1)</script> {secret} " + "x" * 9_000,
    }
    async with behind_fake(tmp_path) as (issuer, browser, _):
        state = (await browser.begin()).query["state"]
        query = {"state": state, **{name: text[:3_000] for name, text in said.items()}}
        assert (
            await browser.come_back(**{**query, "state": "x"})
        ).status == 422  # of no login of this browser
        shown = await browser.visit(f"{CALLBACK}?{urlencode(query)}", Accept="text/html")
        assert shown.status == 401 and "&lt;script&gt;" in shown.text and "<script" not in shown.text
        assert (
            secret not in shown.text and "[redacted]" in shown.text and "ask those who run it" in shown.text
        )
        assert len(shown.text) < 2_000 and issuer.forms == []
        begun = await browser.begin()
        issuer.for_code = (400, said)
        refused = await browser.come_back(code="c", state=begun.query["state"])
        assert refused.status == 401 and secret not in refused.text and "access_denied" in refused.text
        issuer.for_code = (500, {})
        begun = await browser.begin()
        assert (await browser.come_back(code="c", state=begun.query["state"])).status == 401


async def test_no_word_of_a_request_leads_a_browser_or_a_code_to_a_stranger(tmp_path: Path) -> None:
    evil = "https://evil.example"
    async with behind_fake(tmp_path) as (issuer, browser, _):
        begun = await browser.visit(
            f"/session/oidc?redirect_uri={evil}&return_to={evil}&next=//evil.example&client_id=x&scope=admin",
            **{"X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"},
        )
        assert (
            begun.location.startswith(f"{issuer.url}/authorize?realm=mesh&") and "evil" not in begun.location
        )
        assert begun.query["redirect_uri"] == f"{browser.url}{CALLBACK}"
        assert (begun.query["client_id"], begun.query["scope"]) == (AUDIENCE, "openid profile")
        issuer.for_code = (200, {"id_token": issuer.token(**claims(begun))})
        answer = await browser.come_back(code="c", state=begun.query["state"], next=evil, redirect_uri=evil)
        assert (answer.status, answer.location) == (303, "/")
        assert issuer.forms[-1]["redirect_uri"] == f"{browser.url}{CALLBACK}"
        issuer.discovery["token_endpoint"] = "http://evil.example/token"
        assert (await browser.visit("/session/oidc", Host="evil.example")).status == 421


async def test_a_page_of_another_site_begins_no_login(tmp_path: Path) -> None:
    async with behind_fake(tmp_path) as (_, browser, _):
        for site in ("cross-site", "same-site"):
            refused = await browser.visit("/session/oidc", **{"Sec-Fetch-Site": site})
            assert (refused.status, refused.cookies) == (403, {})
        for site in ("none", "same-origin"):
            assert (await browser.visit("/session/oidc", **{"Sec-Fetch-Site": site})).status == 303


async def test_a_login_that_took_too_long_or_whose_cookie_was_altered_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with behind_fake(tmp_path) as (issuer, browser, other):
        begun = await browser.begin()
        way, path = begun.cookies["mesh_login"], f"{CALLBACK}?code=c&state={begun.query['state']}"
        assert begun.query["state"] not in way and begun.query["nonce"] not in way
        for altered in ("", "x", way[:-2], "x" * 9_000):
            assert (await other.visit(path, Cookie=f"mesh_login={altered}")).status == 422
        monkeypatch.setattr(login, "SECONDS", 0)
        begun = await browser.begin()
        path, way = f"{CALLBACK}?code=c&state={begun.query['state']}", begun.cookies["mesh_login"]
        late = await other.visit(path, Cookie=f"mesh_login={way}")
        assert late.status == 422 and "took too long" in late.text and issuer.forms == []


async def test_a_login_ends_with_its_token_and_its_streams_do(tmp_path: Path) -> None:
    async with behind_fake(tmp_path) as (issuer, browser, _):
        begun = await browser.begin()
        issuer.for_code = (200, {"id_token": issuer.token(**claims(begun, exp=int(time.time()) + 4))})
        assert (await browser.come_back(code="c", state=begun.query["state"])).status == 303
        async with browser.session.get(f"{browser.url}/events/stream") as stream:
            text = await stream.text()
        assert "stream.ended" in text and "expired at" in text


async def test_an_issuer_that_is_away_or_sends_people_elsewhere_logs_nobody_in(tmp_path: Path) -> None:
    async with behind_fake(tmp_path) as (issuer, browser, _):
        issuer.discovery["authorization_endpoint"] = "http://evil.example/authorize"
        refused = await browser.visit("/session/oidc", Accept="text/html")
        assert (
            refused.status == 503 and "authorization_endpoint" in refused.text and "evil" not in refused.text
        )


async def test_no_login_is_offered_where_the_settings_have_none(tmp_path: Path) -> None:
    async with fake_issuer() as issuer:
        only_tokens = {"issuer": issuer.url, "audience": AUDIENCE}
        async with (
            http_mesh(tmp_path, admin_token=TOKEN, oidc=only_tokens) as api,
            visitors(api.url) as [browser, *_],
        ):
            assert (await api.get("/session"))["oidc"] is None
            known = {"Authorization": f"Bearer {TOKEN}"}
            found = [(await browser.visit(path, **known)).status for path in ("/session/oidc", CALLBACK)]
            assert found == [404, 404]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"oidc": {"login": True}}, "no issuer"),
        ({"oidc": {"url": "http://mesh.example.com"}}, "expected an https URL"),
        ({"oidc": {"url": "https://mesh.example.com/sub"}}, "without a path"),
        (
            {
                "oidc": {"issuer": "https://i.example", "audience": "m", "login": True},
                "http": {"behind_tls": True},
            },
            "oidc.url is missing",
        ),
        (
            {
                "oidc": {"issuer": "https://i.example", "audience": "m", "login": True},
                "http": {"host": "0.0.0.0"},
            },
            "oidc.url is missing",
        ),
    ],
)
def test_settings_that_could_bring_nobody_back_are_refused(tmp_path: Path, settings: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_settings(tmp_path, **settings)


async def test_the_redirect_uri_is_the_one_of_the_settings(tmp_path: Path) -> None:
    async with behind_fake(tmp_path, url="https://mesh.example.com/") as (_, browser, _):
        assert (await browser.begin()).query["redirect_uri"] == f"https://mesh.example.com{CALLBACK}"


# In a browser


@pytest.mark.needs("chromium")
async def test_a_person_logs_in_by_the_button_of_the_page(tmp_path: Path) -> None:
    async with behind_dex(tmp_path) as dex, chromium() as browser:
        context = await browser.new_context()
        context.set_default_timeout(MILLISECONDS)
        expect.set_options(timeout=MILLISECONDS)
        page = await context.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(f"{dex.url}/#/money?by=model")
        await page.get_by_role("link", name="Log in with").click()
        await page.locator("input[name=login]").fill("ada@example.com")
        await page.locator("input[name=password]").fill(PASSWORD)
        await page.locator("button[type=submit]").click()
        await expect(page.get_by_role("heading", name="Money", level=1)).to_be_visible()
        assert page.url == f"{dex.url}/#/money?by=model"  # the view that was open before
        [cookie] = await context.cookies(dex.url)  # that of the way there is gone
        assert cookie.get("name", "").startswith("mesh_session_")
        assert cookie.get("sameSite") == "Strict" and cookie.get("httpOnly")
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_role("link", name="Log in with")).to_be_visible()
        assert complaints == []
