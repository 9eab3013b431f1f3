"""A real Chromium."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

_OFF = (
    # Chromium takes the last list alone: these are Playwright's.
    "AvoidUnnecessaryBeforeUnloadCheckSync,DestroyProfileOnBrowserClose,HttpsUpgrades,"
    "HttpsFirstBalancedModeAutoEnable,LensOverlay,MediaRouter,PaintHolding,ThirdPartyStoragePartitioning,"
    "AvoidCorsURLLoaderRestartOnRedirect,OptimizationHints,NetworkTimeServiceQuerying,AimEnabled,"
    "PreconnectToSearch,"
    # Each window would have a process for the suggestions of its address bar: a second of CPU for a test.
    "WebUIOmniboxPopup,WebUIOmniboxFullPopup,WebUIOmniboxAimPopup"
)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser of the system, closed at the end."""
    async with async_playwright() as play:
        browser = await play.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", f"--disable-features={_OFF}"]
        )
        try:
            yield browser
        finally:
            await browser.close()
