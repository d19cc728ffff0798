"""The command as a process: its address, its ends, and kills at any moment."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

import siammae
from siammae.annotate.project import Project
from siammae.cli import main
from tests.annotate.projects import draw, follow, session, write_clip
from tests.helpers import tiny_model

KILLS = 10


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
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

    def starting(*arguments):
        servers.append(Server(forks, tmp_path / f"log{len(servers)}", *arguments))
        return servers[-1]

    yield starting
    for server in servers:
        if server.code is None:
            server.end(signal.SIGKILL)


class Server:
    """A server in a process of its own."""

    def __init__(self, forks, log, *arguments):
        self.forks, self.log, self.code = forks, log, None
        argv = ["annotate", *map(str, arguments), "--no-browser", "--port", "0", "--device", "cpu"]
        self.pid = forks({"argv": argv, "log": str(log)})
        while not (found := re.search(r"http://[^:]+:(\d+)/", self.printed("out"))):
            assert not self.printed("err"), self.printed("err")
            time.sleep(0.02)
        self.port = int(found[1])

    def printed(self, stream):
        path = self.log.with_name(f"{self.log.name}.{stream}")
        return path.read_text() if path.exists() else ""

    def ask(self, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        connection.request("GET" if body is None else "POST", path, data)
        answer = connection.getresponse()
        result = answer.read()
        connection.close()
        assert answer.status == 200, result
        return json.loads(result) if answer.headers["content-type"] == "application/json" else result

    def paint(self, frame, top, left, number, side=2):
        path = f"/api/frames/{frame}/paint?left={left}&top={top}&width={side}&height={side}"
        self.ask(path, zlib.compress(bytes([number]) * side * side))

    def end(self, number):
        """Send a signal; returns the exit code and what was said."""
        os.kill(self.pid, number)
        self.code = self.forks(self.pid)
        return self.code, self.printed("err")


def open_files(folder):
    """What a project holds, read without a server."""
    index = json.loads((folder / "project.json").read_text())
    return Project(folder, index["video"])


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "stopped"), (signal.SIGTERM, "stopped by SIGTERM")])
def test_signal_ends_the_server_in_one_line(number, said, inputs, start, tmp_path):
    folder, _ = inputs
    server = start(folder / "clip", "-o", tmp_path / "p", "--model", folder / "model")
    assert server.printed("out").startswith("clip: 20 frames; project ")
    assert server.ask("/api/project")["video"]["frames"] == 20
    page = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    page.request("GET", "/api/events")  # an open page holds nothing up
    stream = page.getresponse()
    assert stream.readline() == b": connected\n"
    assert server.end(number) == (128 + number, f"\nsiammae: {said}\n")
    stream.close()
    page.close()
    assert not (tmp_path / "p" / ".siammae.lock").exists()


def test_second_server_on_a_project_is_refused(inputs, start, tmp_path, capsys):
    folder, _ = inputs
    server = start(folder / "clip", "-o", tmp_path / "p", "--model", folder / "model")
    assert main(["annotate", str(folder / "clip"), "-o", str(tmp_path / "p"), "--no-browser"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "another server has opened" in line
    assert f"process {server.pid} on" in line
    assert main(["export", str(tmp_path / "p"), "--format", "coco", "-o", str(tmp_path / "c.json")]) == 1
    assert "another server has opened" in capsys.readouterr().err
    server.end(signal.SIGKILL)
    assert main(["export", str(tmp_path / "p"), "--format", "coco", "-o", str(tmp_path / "c.json")]) == 1
    assert "there is nothing to export" in capsys.readouterr().err


def test_kills_during_drawing_and_following_lose_at_most_the_stroke_in_progress(inputs, start, tmp_path):
    folder, masks = inputs
    project = tmp_path / "p"
    arguments = (folder / "clip", "-o", project, "--model", folder / "model", "--short-side", "48")
    rng = np.random.default_rng(0)
    with session(project, folder / "clip") as opened:
        draw(opened, 0, masks[0])
    done = {}  # what the server said that it has
    followed = {}
    for kill in range(KILLS):
        server = start(*arguments)
        assert server.ask("/api/project")["spans"]["annotated"][0] == [0, 0]
        server.ask("/api/follow", {"frame": 0, "direction": "forward"})
        end = time.monotonic() + float(rng.uniform(0.05, 0.6))
        while time.monotonic() < end:
            pending = (int(rng.choice([8, 14])), 2 * int(rng.integers(20)), 2 * int(rng.integers(40)))
            server.paint(*pending, 1)
            done[pending] = True
        server.end(signal.SIGKILL)
        files = open_files(project)
        for frame, top, left in done:
            assert files.labels(frame)[top : top + 2, left : left + 2].all(), (kill, frame, top, left)
        assert np.array_equal(files.labels(0), masks[0])
        for path in (project / "followed").glob("*.png"):  # each is whole
            assert siammae.read_mask(path, binary=False).shape == (48, 100)
        followed |= dict.fromkeys(f for first, last in files.spans()["followed"] for f in range(first, last + 1))
        assert set(followed) <= {f for a, b in files.spans()["followed"] for f in range(a, b + 1)}
    assert len(done) >= KILLS
    assert followed
    server = start(*arguments)
    assert not list(project.rglob("*.part"))
    server.ask("/api/follow", {"frame": 0, "direction": "forward"})
    while server.ask("/api/project")["run"]["state"] != "idle":
        time.sleep(0.05)
    spans = server.ask("/api/project")["spans"]
    assert spans["stale"] == []
    assert {f for a, b in spans["followed"] for f in range(a, b + 1)} | {8, 14} >= set(range(1, 20))
    server.end(signal.SIGTERM)


def test_other_hosts_need_a_token_which_is_in_the_address(inputs, start, tmp_path):
    folder, _ = inputs
    server = start(folder / "clip", "-o", tmp_path / "p", "--model", folder / "model", "--host", "0.0.0.0")
    assert re.search(r"http://0\.0\.0\.0:\d+/\?token=[\w-]{30,} ", server.printed("out"))
    server.end(signal.SIGTERM)


def test_project_is_opened_by_its_own_name_and_exported_without_a_server(inputs, start, tmp_path, capsys):
    folder, masks = inputs
    with session(tmp_path / "p", folder / "clip") as opened:
        draw(opened, 0, masks[0])
        follow(opened, limit=3)
    server = start(tmp_path / "p", "--model", folder / "model")
    assert server.ask("/api/project")["spans"]["followed"] == [[1, 3]]
    server.end(signal.SIGTERM)
    argv = ["export", str(tmp_path / "p"), "--format", "davis", "-o", str(tmp_path / "out")]
    assert main(argv) == 0
    assert capsys.readouterr().out == f"4 frames as davis in {tmp_path / 'out'}\n"
    assert np.array_equal(siammae.read_mask(tmp_path / "out" / "000.png"), masks[0])
    assert main([*argv[:-1], str(tmp_path / "drawn"), "--annotated"]) == 0
    assert [path.name for path in (tmp_path / "drawn").glob("*.png")] == ["000.png"]
    assert main(["export", str(tmp_path / "p"), "--overlay", "-o", str(tmp_path / "o.mp4")]) == 0
    assert len(list(siammae.read_frames(tmp_path / "o.mp4"))) == 20


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give a video, a folder of images or a project, or --demo"),
        (["x.mp4", "--demo"], "or --demo and none of these"),
        (["x.mp4"], "no video at x.mp4: it must be a video file, a folder of images or a project"),
        (["{clip}", "--port", "99999"], "--port is 99999: it must be from 0 to 65535"),
        (["{clip}", "-o", "{clip}"], "no project.json: it is no project"),
        (["{clip}", "--model", "nothing"], "nothing"),
        (["{broken}"], "broken.mp4 cannot be read as a video"),
    ],
)
def test_mistakes_are_one_line(argv, message, inputs, tmp_path, monkeypatch, capsys):
    folder, _ = inputs
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0junk")
    argv = [part.replace("{clip}", str(folder / "clip")).replace("{broken}", "broken.mp4") for part in argv]
    assert main(["annotate", *argv, "--no-browser"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_video_that_is_gone_is_asked_for(inputs, tmp_path, capsys):
    masks = write_clip(tmp_path / "clip", 3)
    with session(tmp_path / "p", tmp_path / "clip") as opened:
        draw(opened, 0, masks[0])
    (tmp_path / "clip").rename(tmp_path / "moved")
    assert main(["annotate", str(tmp_path / "p"), "--no-browser"]) == 1
    assert f"name it, as siammae annotate VIDEO -o {tmp_path / 'p'}" in capsys.readouterr().err
    argv = ["export", str(tmp_path / "p"), "--format", "davis", "-o", str(tmp_path / "out")]
    assert main(argv) == 1
    assert main([*argv, "--video", str(tmp_path / "moved")]) == 0
    assert Path(tmp_path / "out" / "000.png").exists()


def test_missing_packages_are_said(monkeypatch, capsys, inputs):
    for name in ("siammae.annotate.serving", "uvicorn"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["annotate", str(inputs[0] / "clip"), "--no-browser"]) == 1
    assert 'pip install "siammae[annotate]"' in capsys.readouterr().err
