"""Headless Chromium on ComfyUI's own page."""

import importlib.util
import json
import shutil
import time
import urllib.request
from pathlib import Path

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
UP = "return !!(window.app?.graph && window.LiteGraph?.registered_node_types?.ESCDiffMix)"


def available() -> bool:
    return bool(CHROMIUM and DRIVER and importlib.util.find_spec("selenium"))


def open_browser(url: str, profile: Path):
    """A selenium driver with the front end up and our nodes known; what greets a new user is switched off."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--window-size=1900,1000", f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    settings = json.dumps(
        {"Comfy.TutorialCompleted": True, "Comfy.Workflow.ShowMissingModelsWarning": False}
    ).encode()
    request = urllib.request.Request(f"{url}/settings", settings, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=20).close()
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(120)
    driver.get(url)
    end = time.monotonic() + 120
    while not driver.execute_script(UP):
        if time.monotonic() > end:
            said = driver.get_log("browser")
            driver.quit()
            raise TimeoutError(f"ComfyUI's page did not come up: {said}")
        time.sleep(0.5)
    time.sleep(3)        # what the front end opens of its own accord
    return driver
