"""The picture of the README: the slice viewer of a report, as Chromium shows it.

    python scripts/picture.py gi2nnunet-workspace/report.html docs/images/viewer.png --keys f

Needs what ``scripts/browser_testbed.sh`` installs. Take a phantom's report: pictures of patients do
not belong into a repository.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--force-device-scale-factor=1",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", default="#viewer", help="CSS selector of what to show")
    parser.add_argument("--keys", default="", help="keys to press in the viewer first")
    parser.add_argument("--width", type=int, default=1200)
    asked = parser.parse_args()
    options = webdriver.ChromeOptions()
    with tempfile.TemporaryDirectory() as profile:
        for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.binary_location = shutil.which("chromium") or ""
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        driver = webdriver.Chrome(options=options, service=service)
        try:
            driver.set_window_size(asked.width, 1400)
            driver.get(asked.report.resolve().as_uri())
            part = driver.find_element(By.CSS_SELECTOR, asked.part)
            driver.execute_script("arguments[0].scrollIntoView()", part)
            if asked.keys:
                driver.find_element(By.ID, "v-next").send_keys(asked.keys)
            part.screenshot(str(asked.out))
            # Few colours: a third of the size.
            Image.open(asked.out).quantize(
                method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
            ).save(asked.out, optimize=True)
        finally:
            driver.quit()
    print(f"{asked.out}: {asked.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
