"""One browser for all tests, and a page of its own for each."""

import pytest

from tests.annotate.browsing import OPTIONS, Hands, find_chromium


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
