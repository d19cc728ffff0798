"""What several test files share."""

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores, so one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from siammae.features import PixelExtractor
from siammae.network import dtypes, loading

# Commands under test hear the signals that tests send, also where the tests themselves run under nohup or behind a "&":
# what a process ignores, its children do.
for _number in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(autouse=True, scope="session")
def float32_where_nobody_chose() -> Iterator[None]:
    """Let dtype="auto" be float32 on every machine, so that all compare the same numbers."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dtypes, "bfloat16_is_faster", lambda: False)
        yield


@pytest.fixture
def shared_data() -> Path:
    """Annotated videos beside the checkout, which cannot ship with the source."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared data in {SHARED}")
    return SHARED


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """Let files grow to so many bytes within a block and no further, as on a full disk.

    The limit holds for the whole process, so it must end within the test: pytest writes the test's dot before fixtures
    end, and where that goes to a long log it would fail too.
    """

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, previous)

    return limit


@pytest.fixture
def loaded(monkeypatch):
    """Replace loading by a record of what was loaded."""
    names = []

    def from_pretrained(name, *, dtype):
        names.append(name)
        return PixelExtractor(2)

    monkeypatch.setattr(loading.SiamMAE, "from_pretrained", from_pretrained)
    loading._load.cache_clear()
    yield names
    loading._load.cache_clear()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests of CUDA kernels without a device, or fail them where one was promised."""
    if item.get_closest_marker("gpu") is None or torch.cuda.is_available():
        return
    if os.environ.get("SIAMMAE_REQUIRE_GPU") == "1":
        pytest.fail("SIAMMAE_REQUIRE_GPU=1, but there is no CUDA device", pytrace=False)
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs a CUDA device")
