"""The page's views of keys, configurations and deliveries, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from meshwright.core.access import Role
from tests.support.fake_chats import WHSEC, standard_headers
from tests.support.http_mesh import http_mesh
from tests.support.page import (
    ADMIN,
    ADMINS,
    TOKEN,
    confirm,
    dialog,
    expect_refusal,
    log_in,
    open_view,
    press,
    reader,
)
from tests.support.tenants import holder
from tests.support.webhook_mesh import deliver, event, issue, webhooks

pytestmark = pytest.mark.needs("chromium")


async def test_keys_are_made_rotated_and_revoked_and_shown_once(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, **ADMINS) as api, open_view(browser, api, "keys", TOKEN) as page:
        await press(page, "Create a key…")
        await dialog(page).get_by_label("Name of the person or program").fill("two words")
        await confirm(page, "Create")
        await expect_refusal(page, "may use letters, digits")
        await dialog(page).get_by_label("Name of the person or program").fill("ada")
        await dialog(page).get_by_label("Expires in").fill("soon")
        await confirm(page, "Create")
        await expect_refusal(page, "soon")
        await dialog(page).get_by_label("Expires in").fill("30d")
        for role in ("contents:", "submitter:"):
            await dialog(page).get_by_label(role).uncheck()
        await confirm(page, "Create")
        key = await dialog(page).get_by_role("textbox", name="Key").input_value()
        await page.keyboard.press("Escape")  # would lose it
        await confirm(page, "I have saved it")
        await expect(dialog(page)).to_have_count(0)
        headers = {"Authorization": f"Bearer {key}"}
        _, me = await api.call("GET", "/me", headers=headers)
        assert (me["name"], me["roles"]) == ("ada", ["viewer"]) and key not in await page.content()
        await press(page, "Rotate the key of ada")
        await dialog(page).get_by_label("Both work for").fill("for ever")
        await confirm(page, "Rotate")
        await expect_refusal(page, "for ever")
        await dialog(page).get_by_label("Both work for").fill("1h")
        await confirm(page, "Rotate")
        assert await dialog(page).get_by_role("textbox", name="Key").input_value() != key
        await confirm(page, "I have saved it")
        await expect(page.get_by_text("rotated", exact=True)).to_be_visible()
        revoke = page.get_by_role("button", name="Revoke the key of ada").last
        await revoke.press("Enter")
        await expect(dialog(page).get_by_role("button", name="Keep it")).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(revoke).to_be_focused()
        await revoke.press("Enter")
        await confirm(page, "Revoke")
        await expect(page.get_by_text("revoked", exact=True)).to_be_visible()
        assert (await api.call("GET", "/me", headers=headers))[0] == 401


async def test_without_credentials_of_an_administrator_a_login_is_offered(
    tmp_path: Path, browser: Browser
) -> None:
    async with http_mesh(tmp_path, admin_token=TOKEN) as api, reader(browser, f"{api.url}/#/keys") as person:
        await press(person.page, "Log in")
        await log_in(person, TOKEN)
        await expect(person.page.get_by_text("There is no key.")).to_be_visible()
        assert person.complaints == []


async def test_an_agents_model_is_configured_changed_and_deleted(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, **ADMINS) as api, open_view(browser, api, "configuration", TOKEN) as page:
        await press(page, "Configure an agent…")
        await dialog(page).get_by_role("combobox", name="Agent").select_option("echo")
        await dialog(page).get_by_label("Provider").fill("nobody")
        await dialog(page).get_by_label("Model").fill("llama3")
        await confirm(page, "Save")
        await expect_refusal(page, "nobody")
        await dialog(page).get_by_label("Provider").fill("ollama")
        await dialog(page).get_by_label("Address").fill("ftp://models")
        await confirm(page, "Save")
        await expect_refusal(page, "http")
        await dialog(page).get_by_label("Address").fill("http://127.0.0.1:9")
        await confirm(page, "Save")
        row = page.get_by_role("region", name="Configurations").get_by_role("row").filter(has_text="echo")
        await expect(row).to_contain_text("llama3")
        await press(page, "Change the configuration of echo")
        await confirm(page, "Save")
        await expect_refusal(page, "Nothing is changed")
        await dialog(page).get_by_label("Model").fill("llama4")
        await confirm(page, "Save")
        await expect(row).to_contain_text("llama4")
        config = await api.call("GET", "/api/agents/echo", headers=ADMIN)
        assert (config[1]["llm_model"], config[1]["llm_provider"]) == ("llama4", "ollama")
        await press(page, "Delete the configuration of echo")
        await confirm(page, "Delete")
        await expect(row).to_have_count(0)
        rest = page.get_by_role("region", name="Agents without a configuration").get_by_role("row")
        await expect(rest.filter(has_text="echo")).to_contain_text("as in mesh.toml")
        await press(page, "Configure echo")
        await expect(dialog(page).get_by_role("combobox", name="Agent")).to_have_value("echo")


async def test_deliveries_show_what_came_of_them(tmp_path: Path, browser: Browser) -> None:
    chat = {"kind": "http", "agent": "echo", "secret": WHSEC, "url": "http://127.0.0.1:9/in"}
    push = {"url": "https://hooks.example.com/in?key=s3cret", "secret": WHSEC}
    hooks = webhooks(push=[push])
    hooks["sources"]["alerts"] = {"kind": "alertmanager", "secret": "the secret of alerts"}
    channels = {
        "chat": chat,
        "team": chat | {"kind": "mattermost", "token": "x", "url": "http://127.0.0.1:9"},
    }
    async with http_mesh(tmp_path, webhooks=hooks, channels=channels) as api:
        async with open_view(browser, api, "deliveries") as page:
            await expect(page.get_by_text("Nothing was delivered lately.")).to_be_visible()
            rows = page.get_by_role("region", name="Channels and sources").get_by_role("row")
            for name, text in (
                ("webhook:github", "event=issues action=opened → echo"),
                ("webhook:alerts", "events alone"),
                ("push:hooks.example.com", "all outcomes"),
                ("channel:chat", "/channels/chat by standard"),
                ("channel:team", "not connected"),
            ):
                await expect(rows.filter(has_text=name)).to_contain_text(text)
            assert "s3cret" not in await page.content()
        _, made = await deliver(api, issue(), "d-1")
        await deliver(api, {"zen": "Keep it simple."}, "d-2", event="ping")
        await event(api, "webhook.received")
        body = b'{"id": "m-1", "thread_id": "t", "sender": "ada", "content": "Hello"}'
        sent = {"data": body, "headers": standard_headers("m-1", body)}
        assert (await api.call("POST", "/channels/chat", **sent))[0] == 200
        assert (await deliver(api, issue(), "d-3", secret="guess"))[0] == 401
        async with open_view(browser, api, "deliveries") as page:
            sources = page.get_by_role("region", name="Channels and sources")
            await expect(sources.get_by_role("link", name="webhook:github")).to_be_visible()
            rows = page.get_by_role("region", name="Deliveries").get_by_role("row")
            for what in ("issues", "ping", "a message of ada", "refused with 401, from 127.0.0.1"):
                await expect(rows.filter(has_text=what)).to_have_count(1)
            refused = rows.filter(has_text="refused with 401")
            await expect(refused).to_contain_text(
                "the signature or token is missing or wrong. Set the same secret"
            )
            await expect(refused).to_contain_text("[webhooks.sources.github] of mesh.toml")
            await rows.filter(has_text="issues").get_by_role("link", name=f"…{made['tasks'][0][-6:]}").click()
            await expect(page.get_by_role("heading", level=1)).to_contain_text("Fix #7: It is broken")


async def test_views_and_buttons_are_those_of_the_role(tmp_path: Path, browser: Browser) -> None:
    async with http_mesh(tmp_path, **ADMINS) as api:
        body = {"agent_id": "echo", "llm_provider": "ollama", "llm_model": "llama3"}
        await api.call("POST", "/api/agents", json=body, headers=ADMIN)
        viewer = (await holder(api, "default", Role.VIEWER))["Authorization"].split()[1]
        async with open_view(browser, api, "configuration", viewer) as page:
            await expect(page.get_by_role("row").filter(has_text="llama3")).to_be_visible()
            buttons = await page.get_by_role("button").all_inner_texts()
            assert buttons == ["Go to…\nCtrl K", "Log out"]
            assert await page.get_by_role("link", name="Keys").count() == 0
