"""Pages in a real browser: Chromium through Selenium, accessibility through axe-core.

``scripts/browser_testbed.sh`` installs both. Tests ask for the fixture ``browser`` and are marked
``slow``; without a browser they are skipped, or fail where ``GI2NNUNET_BROWSER`` is ``required``.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

AXE = Path(__file__).resolve().parents[1] / "build/browser/node_modules/axe-core/axe.min.js"
# Desktop and phone, in CSS pixels.
WIDTHS = (1280, 390)
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
_ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--window-size=1280,1000",
)  # fmt: skip


def find_missing() -> str:
    """What the browser tests lack; empty for nothing."""
    missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    try:
        import selenium  # noqa: F401
    except ImportError:
        missing.append("selenium")
    return ", ".join(missing if AXE.is_file() else [*missing, "axe-core"])


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A fresh Chromium, as Selenium's driver."""
    if missing := find_missing():
        reason = f"no {missing}: run scripts/browser_testbed.sh"
        if os.environ.get("GI2NNUNET_BROWSER") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    profile = tmp_path_factory.mktemp("profile")
    for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = shutil.which("chromium") or ""
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def open_page(driver: Any, page: Path, *, width: int = 1280) -> None:
    """Load a page from disk, without a network, at a width of ``WIDTHS``; 390 is a phone."""
    phone = width < 600
    metrics = {
        "width": width, "height": 844 if phone else 1000,
        "deviceScaleFactor": 2 if phone else 1, "mobile": phone,
    }  # fmt: skip
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    driver.get(page.resolve().as_uri())


def find_console_lines(driver: Any) -> list[str]:
    """What the page wrote to the console, errors of loading included; empties it."""
    return [f"{entry['level']}: {entry['message']}" for entry in driver.get_log("browser")]


def find_overflow(driver: Any) -> list[str]:
    """Elements that make the page wider than the window, outermost first; empty is well."""
    script = """
        const width = document.documentElement.clientWidth;
        if (document.documentElement.scrollWidth <= width) return [];
        return Array.from(document.body.querySelectorAll("*"))
          .filter((e) => e.getBoundingClientRect().right > width + 1)
          .map((e) => e.outerHTML.slice(0, 120));
    """
    return list(driver.execute_script(script))


def find_violations(driver: Any) -> list[str]:
    """What axe-core holds against the page as it stands, by the rules of WCAG 2.1 A and AA."""
    driver.execute_script(AXE.read_text(encoding="utf-8"))
    script = f"""
        const done = arguments[arguments.length - 1];
        axe.run(document, {{runOnly: {{type: "tag", values: {json.dumps(_RULES)}}}}})
          .then((found) => done(found.violations), (error) => done([{{id: "axe", help: String(error), nodes: []}}]));
    """  # noqa: E501
    driver.set_script_timeout(120)
    return [
        f"{violation['id']}: {violation['help']}: "
        + "; ".join(str(node["target"]) for node in violation["nodes"][:3])
        for violation in driver.execute_async_script(script)
    ]


def save_screenshot(driver: Any, path: Path) -> None:
    """Write a picture of the whole page, for looking at."""
    import base64

    found = driver.execute_cdp_cmd(
        "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True}
    )
    path.write_bytes(base64.b64decode(found["data"]))
