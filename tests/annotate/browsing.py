"""A browser that looks at a page, and a person's hands."""

import io
import os
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from siammae.annotate.server import make_app
from siammae.annotate.serving import bind, serving
from tests.annotate.projects import EXTRACTOR, RULES, session

OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-dev-shm-usage",
]


def find_chromium():
    """The browser, or a skip; a failure where SIAMMAE_REQUIRE_BROWSER=1 promises one."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        import playwright  # noqa: F401
    except ImportError:
        path = None
    if path is None:
        if os.environ.get("SIAMMAE_REQUIRE_BROWSER") == "1":
            pytest.fail("SIAMMAE_REQUIRE_BROWSER=1, but there is no Chromium, or no playwright", pytrace=False)
        pytest.skip("needs Chromium (apt-get install chromium) and playwright")
    return path


@contextmanager
def served(folder, video, extractor=EXTRACTOR, rules=RULES):
    """Serve a project in this process; yields its session and address."""
    with session(folder, video, extractor, rules) as opened:
        listener = bind("127.0.0.1", 0)
        with serving(make_app(opened, host="127.0.0.1", token=None), listener):
            yield opened, f"http://127.0.0.1:{listener.getsockname()[1]}/"


class Hands:
    """Works on an open page as a person does: with mouse and keys only.

    Attributes:
        clicks: presses of the mouse so far.
        keys: pressed so far.
    """

    def __init__(self, page, address):
        self.page, self.clicks, self.keys = page, 0, 0
        self.troubles = []
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("console", self._hear)
        page.goto(address)
        page.wait_for_selector("body[data-ready=true]", timeout=30_000)
        self.size = tuple(page.evaluate("import('/page/state.js').then(m => [m.state.width, m.state.height])"))

    def _hear(self, line):
        if line.type == "error":
            self.troubles.append(f"{line.text} {line.location}")

    def at(self, x, y):
        """Where a pixel of the frame is on the screen, while the whole frame is shown."""
        box = self.page.locator("#stage").bounding_box()
        scale = min(box["width"] / self.size[0], box["height"] / self.size[1])
        left = box["x"] + (box["width"] - self.size[0] * scale) / 2
        top = box["y"] + (box["height"] - self.size[1] * scale) / 2
        return left + (x + 0.5) * scale, top + (y + 0.5) * scale

    def drag(self, *corners, button="left"):
        """Press at the first corner, move along the others, let go."""
        mouse = self.page.mouse
        mouse.move(*self.at(*corners[0]))
        mouse.down(button=button)
        for corner in corners[1:]:
            mouse.move(*self.at(*corner), steps=4)
        mouse.up(button=button)
        self.clicks += 1
        self.settle()

    def click(self, x, y, button="left"):
        self.drag((x, y), button=button)

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)
            self.keys += 1
        self.settle()

    def button(self, name):
        self.page.get_by_role("button", name=name, exact=True).click()
        self.clicks += 1
        self.settle()

    def settle(self):
        """Wait until everything that was done is saved."""
        self.page.wait_for_timeout(30)
        self.page.wait_for_selector("body[data-pending='0']")

    def go(self, frame):
        """Type the number of a frame."""
        self.page.fill("#number", str(frame))
        self.page.keyboard.press("Enter")
        self.clicks += 1
        self.keys += len(str(frame)) + 1
        self.shows(frame)

    def shows(self, frame):
        """Wait until a frame is shown."""
        self.page.wait_for_selector(f"body[data-frame='{frame}']")

    def until_idle(self):
        """Wait for the end of following."""
        self.page.wait_for_selector("body[data-run=idle]", timeout=120_000)
        self.settle()

    def message(self):
        return self.page.locator("#message").inner_text()

    def screen(self):
        """What is on the screen, ``(H, W, 3)``."""
        return np.array(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))

    def colour(self, x, y):
        """The colour that is shown at a pixel of the frame."""
        left, top = self.at(x, y)
        return self.screen()[round(top), round(left)].astype(int)

    def timeline(self, frame, count, row=7):
        """The colour of a frame's mark on the timeline."""
        box = self.page.locator("#timeline").bounding_box()
        x = box["x"] + 6 + (frame + 0.5) * (box["width"] - 12) / count
        return self.screen()[round(box["y"] + row), round(x)].astype(int)

    def fine(self):
        """Nothing went wrong that the person was not told."""
        assert self.troubles == [], self.troubles
