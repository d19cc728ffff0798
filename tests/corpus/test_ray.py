"""A real Ray cluster of two nodes, Ray's own for tests: the bytes of a plain loop, whatever dies."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import siammae
from siammae.corpus.manifest import MANIFEST, PROGRESS, read_manifest
from tests.corpus.toy import Dies, Slow, make_fatal, make_videos, results

ROOT = Path(__file__).resolve().parents[2]
ray = pytest.importorskip("ray", reason="needs Ray: pip install 'siammae[ray]'")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Ray's and its dependencies' own
    pytest.mark.skipif(sys.platform == "win32", reason="signals differ"),
]


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each; this process is connected to none of them."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    running = Cluster(initialize_head=True, head_node_args=node)
    running.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    running.wait_for_nodes()
    yield running.address
    running.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Twenty videos, of which one, 5 %, is broken; and what a plain loop makes."""
    root = tmp_path_factory.mktemp("ray")
    videos = make_videos(root / "videos", 19)
    (videos / "w.mp4").write_text("no video")
    siammae.extract_corpus(videos, root / "plain", model=siammae.PixelExtractor(8), workers=1)
    return videos, results(root / "plain")


def test_two_nodes_give_the_bytes_of_a_plain_loop_and_name_what_is_broken(cluster, corpus, tmp_path):
    videos, expected = corpus
    handler = signal.getsignal(signal.SIGTERM)
    report = siammae.extract_corpus(
        videos, tmp_path / "out", model=siammae.PixelExtractor(8), engine="ray", address=cluster
    )
    assert results(tmp_path / "out") == expected
    assert (report.made, report.found) == (19, 0)
    assert {Path(path).name: "cannot be read as a video" in why for path, why in report.failed.items()} == {
        "w.mp4": True
    }
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert not list((tmp_path / "out").rglob(".*"))


DRIVER = """
import sys
import siammae
from tests.corpus.toy import Slow
siammae.extract_corpus(
    sys.argv[1], sys.argv[2], model=Slow(sys.argv[3]), engine="ray", address=sys.argv[4], batch_size=100
)
"""


def start_driver(videos, out, log, address):
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(videos), str(out), str(log), address],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for(condition, process=None):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None
        time.sleep(0.02)


def actors():
    """Numbers of the processes that are actors of this cluster, whose nodes this process has started."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            title = (place / "cmdline").read_bytes()
            if re.match(rb"ray::(_?MapWorker|MapBatches)", title) and os.getpid() in ancestors(int(place.name)):
                found.append(int(place.name))
        except OSError:
            continue
    return found


def ancestors(process):
    while process > 1:
        process = int((Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[1])
        yield process


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_killed_actor_and_killed_driver_cost_what_was_in_their_hands(cluster, corpus, tmp_path):
    videos, _ = corpus
    out, log, plain = tmp_path / "out", tmp_path / "log", tmp_path / "plain"
    siammae.extract_corpus(videos, plain, model=Slow(str(tmp_path / "other"), 0), workers=1, batch_size=100)

    def done():  # what is being written has a hidden folder of its own
        return len(list((out / "features").glob("*/[!.]*.safetensors")))

    driver = start_driver(videos, out, log, cluster)
    wait_for(lambda: done() >= 3, driver)
    os.kill(actors()[0], signal.SIGKILL)
    before = done()
    wait_for(lambda: done() >= before + 3, driver)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not actors())  # Ray ends them
    there = {path: path.stat().st_mtime_ns for path in (out / "features").glob("*/[!.]*.safetensors")}
    assert 6 <= len(there) < 19
    assert not (out / MANIFEST).exists()
    calls = log.stat().st_size
    again = start_driver(videos, out, log, cluster)
    assert again.wait() == 0
    assert results(out) == results(plain)
    assert {path: path.stat().st_mtime_ns for path in there} == there
    # A call a video that was missing, and one for the size that is told beforehand.
    assert log.stat().st_size - calls == 19 - len(there) + 1
    assert len(read_manifest(out / MANIFEST)) == 20
    assert not (out / PROGRESS).exists()


@pytest.mark.slow
def test_a_video_that_kills_every_actor_is_named_in_the_end(cluster, corpus, tmp_path):
    videos = make_fatal(make_videos(tmp_path / "videos", 3))
    report = siammae.extract_corpus(videos, tmp_path / "out", model=Dies(8), engine="ray", address=cluster)
    assert report.made == 3
    assert {Path(path).name: reason.split(",")[0] for path, reason in report.failed.items()} == {
        "v9.mp4": "the process that read it died"
    }


@pytest.mark.slow
def test_want_of_the_machine_stops_the_run_in_words(cluster, corpus, tmp_path):
    videos, _ = corpus
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "features").write_text("a file where the folder of results should be")
    with pytest.raises(siammae.WorkerError, match=r"mp4: .*features"):
        siammae.extract_corpus(videos, tmp_path / "out", model=siammae.PixelExtractor(8), engine="ray", address=cluster)


def test_address_without_a_cluster_is_refused_in_words(tmp_path):
    videos = make_videos(tmp_path / "videos", 1)
    with pytest.raises(siammae.WorkerError, match=r"no Ray cluster at '127\.0\.0\.1:1': .*refused"):
        siammae.extract_corpus(
            videos, tmp_path / "out", model=siammae.PixelExtractor(8), engine="ray", address="127.0.0.1:1"
        )
