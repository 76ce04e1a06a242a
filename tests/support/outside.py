"""What tests want that is no part of the repository: programs of the machine, and files of data."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

import pytest

from scorl.sandbox.bubblewrap import detect_level

DATA = Path(os.environ.get("SCORL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def find_data(name: str) -> Path:
    """A file or a folder of data; where it is not there, the test is skipped."""
    if not (DATA / name).exists():
        pytest.skip(f"{name} is no part of the repository; the folder that SCORL_DATA names has none")
    return DATA / name


@functools.cache
def find_chromium() -> str | None:
    """The machine's Chromium, or the one that `playwright install chromium` has fetched."""
    if found := shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"):
        return found
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    try:
        with sync_playwright() as driver:
            own = driver.chromium.executable_path
    except Exception:  # it is one of Playwright's, without a name: its Node lacks a library of the system
        return None
    return own if Path(own).is_file() else None


def find_missing(names: str) -> list[str]:
    """What is not here of `sandbox` and `chromium`, which a list with commas names, each with its reason."""
    level = detect_level()
    faults = {
        "sandbox": "" if level.full else f"no full sandbox here: {level.reason}",
        "chromium": "" if find_chromium() else "there is no Chromium",
    }
    return [fault for name in names.split(",") if (fault := faults.get(name, f"{name!r} is neither of {[*faults]}"))]
