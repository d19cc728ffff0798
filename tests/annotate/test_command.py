"""The command as a process: its address, its ends, its mistakes."""

import http.client
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

import siammae
from siammae.cli import main
from tests.annotate.projects import draw, follow, session, write_clip


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
