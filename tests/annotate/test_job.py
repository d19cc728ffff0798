"""A whole job, by mouse and keys alone: two objects, one correction; what it costs and what comes of it.

The demo clip is annotated in two of its frames only, both drawn by hand, so J is of the second one before it is
corrected. A sequence of DAVIS is annotated in all frames, so J is of all of them.
"""

import logging

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

import siammae
from siammae.cli.demo import demo_data
from siammae.frames import read_frames, write_image
from siammae.metrics import region_similarity
from tests.annotate.browsing import served
from tests.annotate.projects import spans

pytestmark = pytest.mark.browser
_log = logging.getLogger(__name__)  # with --log-cli-level=INFO it says what came of the job
# Frame 29 of the demo clip, as in examples/several_annotated_frames.md
PEOPLE = {
    1: "148,206 150,197 158,192 167,195 172,206 178,212 185,222 189,240 190,262 187,285 198,322 187,326 172,296 165,290"
    " 156,300 152,314 140,315 147,292 145,260 146,225",
    2: "312,40 317,38 321,42 321,50 328,55 333,68 330,74 325,78 325,95 323,118 308,119 306,90 302,72 304,57 312,50",
}


@pytest.fixture(scope="module")
def model():
    return siammae.SiamMAE.from_pretrained()


def write_frames(folder, frames):
    folder.mkdir()
    for index, frame in enumerate(frames):
        write_image(folder / f"{index:03d}.png", frame)
    return folder


def scores(opened, truth):
    """J of both objects in the mean of the frames whose truth is known."""
    pairs = [(opened.project.labels(frame), wanted) for frame, wanted in truth.items()]
    return [float(np.mean([region_similarity(got == i, want == i) for got, want in pairs])) for i in (1, 2)]


def outline(mask):
    """Where a person would click around a thing: to about 2 pixels."""
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.approxPolyDP(max(lines, key=cv2.contourArea), 1.5, True)[:, 0].tolist()


def box_around(hands, mask):
    rows, columns = np.nonzero(mask)
    hands.drag((columns.min() - 3, rows.min() - 3), (columns.max() + 4, rows.max() + 4))


def redraw(hands, object_id, corners):
    """Take an object out of the frame and draw it anew, corner by corner."""
    hands.press(str(object_id), "o", "p")
    for corner in corners:
        hands.click(*corner)
    hands.press("Enter")


def do_job(hands, opened, first, truth, fix, corners):
    """Draw, follow, correct one frame, follow again; returns J before and after."""
    box_around(hands, first == 1)
    hands.press("n")
    box_around(hands, first == 2)
    hands.press("t")
    hands.until_idle()
    before = scores(opened, truth)
    hands.go(fix)
    for object_id, line in corners.items():
        redraw(hands, object_id, line)
    hands.press("a")
    hands.until_idle()
    assert spans(opened, "annotated") == [0, fix]
    assert spans(opened, "stale") == []
    hands.fine()
    return before, scores(opened, truth)


def test_demo_clip(model, tmp_path, open_page):
    source, chosen = demo_data(), [0, 4, 8, 12, 16, 20, 25, 29]
    frames = list(read_frames(source / "walkers.mp4", stop=30))
    video = write_frames(tmp_path / "clip", [frames[index] for index in chosen])
    first = siammae.read_mask(source / "walkers_first_mask.png")
    corners = {key: [tuple(map(int, one.split(","))) for one in text.split()] for key, text in PEOPLE.items()}
    drawn = Image.new("L", (448, 384))
    for key, line in corners.items():
        ImageDraw.Draw(drawn).polygon(line, fill=key)
    rules = siammae.PropagationConfig.recommended(model, "fast")
    with served(tmp_path / "p", video, model, rules) as (opened, address):
        hands = open_page(address)
        before, after = do_job(hands, opened, first, {7: np.array(drawn)}, 7, corners)
        start = scores(opened, {0: first})
    _log.info(
        "%s", f"J {start} as cut out, {before} at frame 29, {after} corrected; {hands.clicks} clicks, {hands.keys} keys"
    )
    assert min(start) > 0.75
    assert min(before) > 0.65
    assert min(after) > 0.95
    assert hands.clicks <= 2 + 1 + sum(map(len, corners.values()))
    assert hands.keys <= 16


@pytest.mark.shared_data
def test_sequence_that_is_annotated_in_all_frames(model, tmp_path, open_page, shared_data):
    root = shared_data / "data" / "DAVIS-2017-small"
    chosen = range(0, 40, 4)
    paths = sorted((root / "Annotations" / "480p" / "schoolgirls").glob("*.png"))
    truth = [siammae.read_mask(paths[index]) for index in chosen]
    ids = sorted({*np.unique(truth[0])} - {0}, key=lambda key: -int((truth[0] == key).sum()))[:2]
    truth = [np.select([mask == ids[0], mask == ids[1]], [np.uint8(1), np.uint8(2)], np.uint8(0)) for mask in truth]
    frames = list(read_frames(root / "JPEGImages" / "480p" / "schoolgirls"))
    video = write_frames(tmp_path / "clip", [frames[index] for index in chosen])
    fix = 7
    corners = {key: outline(truth[fix] == key) for key in (1, 2) if (truth[fix] == key).any()}
    rules = siammae.PropagationConfig.recommended(model, "fast")
    with served(tmp_path / "p", video, model, rules) as (opened, address):
        hands = open_page(address)
        before, after = do_job(hands, opened, truth[0], dict(enumerate(truth)), fix, corners)
    _log.info("%s", f"J {before} before, {after} after the correction; {hands.clicks} clicks, {hands.keys} keys")
    assert np.mean(after) > np.mean(before) + 0.02
