"""Kills at any moment, while a person draws and frames are followed: nothing is lost but the stroke in progress."""

import json
import signal
import time

import numpy as np
import pytest

import siammae
from siammae.annotate.project import Project
from tests.annotate.projects import draw, session

KILLS = 10
RUNS = """() => new MutationObserver(() => window.runs.push(document.body.dataset.run))
    .observe(document.body, {attributes: true, attributeFilter: ["data-run"]})"""  # notes each state of following


def open_files(folder):
    """What a project holds, read without a server."""
    index = json.loads((folder / "project.json").read_text())
    return Project(folder, index["video"])


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


@pytest.mark.browser
def test_kills_while_a_person_draws_in_the_browser_lose_at_most_the_stroke_in_progress(
    inputs, start, tmp_path, open_page
):
    folder, masks = inputs
    project, port, drawn = tmp_path / "p", 0, []
    arguments = (folder / "clip", "-o", project, "--model", folder / "model", "--short-side", "48")
    with session(project, folder / "clip") as opened:
        draw(opened, 0, masks[0])
    server = start(*arguments)
    port, hands = server.port, open_page(f"http://127.0.0.1:{server.port}/")
    mouse, page = hands.page.mouse, hands.page
    page.set_default_timeout(120_000)  # servers start while other tests run
    hands.press("n", "b", *["["] * 5)  # a second object, and a brush of two pixels
    hands.go(8)
    page.evaluate(RUNS)  # twenty small frames may be followed before one could look
    for row in range(3, 3 + 4 * KILLS, 4):
        page.evaluate("window.runs = []")
        hands.press("a")
        page.wait_for_function("window.runs.includes('following')")
        hands.drag((10, row), (30, row))
        drawn.append(row)
        mouse.move(*hands.at(60, row))
        mouse.down()
        mouse.move(*hands.at(70, row), steps=3)
        server.end(signal.SIGKILL)
        mouse.move(*hands.at(80, row), steps=3)
        mouse.up()
        page.get_by_text("the server does not answer").wait_for()
        files = open_files(project)
        labels = files.labels(8)
        assert [r for r in drawn if not (labels[r, 11:30] == 2).all()] == []
        assert not (labels[:, 55:85] == 2).any()
        assert np.array_equal(files.labels(0), masks[0])
        server = start(*arguments, port=port)
        page.get_by_text("connected again").wait_for()
        shown = page.evaluate("import('/page/state.js').then(m => [m.state.frame, ...m.state.labels])")
        assert shown[0] == 8
        assert np.array_equal(np.reshape(shown[1:], (48, 100)), labels)
    hands.press("a")
    page.get_by_text("frames are up to date").wait_for()
    spans = server.ask("/api/project")["spans"]
    assert spans == {"annotated": [[0, 0], [8, 8]], "followed": [[0, 19]], "stale": []}
