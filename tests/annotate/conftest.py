"""One browser for all tests, and a page of its own for each; servers in processes of their own."""

import json
import signal
import subprocess
import sys

import pytest

from tests.annotate.browsing import OPTIONS, Hands, find_chromium
from tests.annotate.commands import Server
from tests.annotate.projects import write_clip
from tests.helpers import tiny_model


@pytest.fixture(scope="session")
def chromium():
    path = find_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Open an address in a window of its own, of 1280 x 720."""
    contexts = []

    def opening(address, **options):
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 720}, **options})
        contexts.append(context)
        context.set_default_timeout(30_000)
        return Hands(context.new_page(), address)

    yield opening
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a clip and a model, and the clip's masks."""
    folder = tmp_path_factory.mktemp("inputs")
    masks = write_clip(folder / "clip", 20, size=(48, 100), step=(0, 1))
    tiny_model().save_pretrained(folder / "model")
    return folder, masks


@pytest.fixture(scope="module")
def forks():
    """A process that forks others, each of which is a command."""
    command = [sys.executable, "-m", "tests.annotate.forking"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"

        def ask(what):
            process.stdin.write(json.dumps(what) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield ask
        process.stdin.close()


@pytest.fixture
def start(forks, tmp_path):
    """Start servers, and see to it that none stays."""
    servers = []

    def starting(*arguments, port=0):
        servers.append(Server(forks, tmp_path / f"log{len(servers)}", *arguments, port=port))
        return servers[-1]

    yield starting
    for server in servers:
        if server.code is None:
            server.end(signal.SIGKILL)
