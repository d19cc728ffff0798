"""The page in a real browser, by mouse and keys: what the person sees, and what is on disk."""

import json
import zipfile

import numpy as np
import pytest

import siammae
from siammae.annotate.tracks import Track
from siammae.frames import write_image
from siammae.metrics import region_similarity
from tests.annotate.browsing import OPTIONS, Hands, find_chromium, served
from tests.annotate.projects import SlowExtractor, spans, write_clip
from tests.frames.test_right_frames import patch_matrix
from tests.videos import encode, numbered

pytestmark = pytest.mark.browser
SIZE, SIDE = (96, 128), 32
YELLOW, GREEN, ORANGE = (255, 210, 63), (74, 165, 100), (224, 112, 47)


@pytest.fixture
def clip(tmp_path):
    return tmp_path / "clip", write_clip(tmp_path / "clip", 10, size=SIZE, side=SIDE, step=(1, 4))


def near(colour, wanted, most=40):
    return np.abs(np.array(colour) - wanted).max() <= most


def test_box_brush_eraser_undo_and_redo(clip, tmp_path, open_page):
    video, masks = clip
    with served(tmp_path / "p", video) as (opened, address):
        hands = open_page(address)
        before = hands.colour(20, 20)
        hands.drag((4, 4), (44, 44))
        labels = opened.project.labels(0)
        assert region_similarity(labels == 1, masks[0] == 1) > 0.8
        after = hands.colour(20, 20)
        assert after[0] - before[0] > 20 or after[1] < before[1] - 20  # red lies over it
        hands.press("b")
        hands.drag((80, 70), (110, 70))
        painted = opened.project.labels(0)
        assert painted[70, 80:111].all()
        assert not painted[70, :70].any()
        assert (hands.colour(100, 70) - hands.colour(100, 85))[0] > 50
        hands.press("Control+z")
        assert np.array_equal(opened.project.labels(0), labels)
        hands.button("Redo")
        assert np.array_equal(opened.project.labels(0), painted)
        hands.press("x")
        hands.drag((80, 70), (110, 70))
        assert np.array_equal(opened.project.labels(0) > 0, labels > 0)
        hands.drag((90, 20), (95, 20), button="right")  # erases with every tool
        assert np.array_equal(opened.project.labels(0) > 0, labels > 0)
        assert near(hands.timeline(0, 10), YELLOW)
        hands.fine()


def test_polygon_fill_objects_hiding_and_zoom(clip, tmp_path, open_page):
    with served(tmp_path / "p", clip[0]) as (opened, address):
        hands = open_page(address)
        hands.press("n", "p")
        for corner in ((10, 50), (60, 50), (60, 90), (10, 90)):
            hands.click(*corner)
        hands.press("Enter")
        labels = opened.project.labels(0)
        assert set(np.unique(labels)) == {0, 2}
        assert (labels == 2).sum() == pytest.approx(50 * 40, rel=0.06)
        hands.press("1", "g")
        hands.click(30, 70)
        assert set(np.unique(opened.project.labels(0))) == {0, 1}
        shown = hands.colour(30, 70)
        hands.press("h")
        assert not near(hands.colour(30, 70), shown, 15)
        hands.press("h", "}", "}", "}", "}", "}")
        assert near(hands.colour(30, 70), (255, 77, 77))
        small = hands.screen()
        hands.page.mouse.move(*hands.at(30, 70))
        hands.page.mouse.wheel(0, -600)
        hands.page.wait_for_timeout(100)
        assert near(hands.screen()[tuple(round(v) for v in reversed(hands.at(30, 70)))], (255, 77, 77))
        assert not np.array_equal(small, hands.screen())
        hands.press("0")
        hands.page.mouse.move(0, 0)
        hands.page.wait_for_timeout(100)
        assert near(hands.colour(30, 70), (255, 77, 77))
        hands.fine()


def test_follow_cancel_correct_and_follow_again(clip, tmp_path, open_page):
    with served(tmp_path / "p", clip[0], SlowExtractor(0.15)) as (opened, address):
        hands = open_page(address)
        hands.drag((4, 4), (44, 44))
        hands.press("t")
        hands.page.wait_for_selector("body[data-run=following]")
        hands.go(2)
        while not near(hands.timeline(3, 10), GREEN):
            hands.page.wait_for_timeout(20)
        hands.press("Escape")
        hands.until_idle()
        assert "stopped; what was followed so far is kept" in hands.message()
        kept = spans(opened, "followed")
        assert 3 <= len(kept) < 9
        assert near(hands.timeline(kept[-1], 10), GREEN)
        assert not near(hands.timeline(9, 10), GREEN)
        hands.press("t")
        hands.until_idle()
        assert spans(opened, "followed") == [*range(1, 10)]
        hands.go(5)
        hands.press("b", "]", "]")
        hands.drag((100, 80), (115, 80))  # a correction
        assert spans(opened, "annotated") == [0, 5]
        assert spans(opened, "stale") == [1, 2, 3, 4, 6, 7, 8, 9]
        assert near(hands.timeline(5, 10), YELLOW)
        assert near(hands.timeline(7, 10, row=3), ORANGE)
        drawn = opened.project.labels(5)
        hands.press("a")
        hands.page.wait_for_selector("body[data-run=following]")
        hands.until_idle()
        assert spans(opened, "stale") == []
        assert near(hands.timeline(7, 10, row=3), GREEN)
        assert np.array_equal(opened.project.labels(5), drawn)
        hands.fine()


def test_keypoints_are_named_set_dragged_hidden_and_absent(clip, tmp_path, open_page):
    with served(tmp_path / "p", clip[0]) as (opened, address):
        hands = open_page(address)
        for name in ("nose", "tail"):
            hands.page.fill("#joint-name", name)
            hands.page.keyboard.press("Enter")
            hands.settle()
        nose, tail = Track(1, "nose"), Track(1, "tail")
        hands.page.get_by_role("button", name="nose", exact=True).click()
        hands.click(30, 30)
        assert opened.project.points[0][nose][:2] == pytest.approx((30, 30), abs=0.3)
        plain = hands.colour(30, 30)
        assert near(plain, (255, 77, 77), 60)
        hands.click(60, 20)  # the next name was chosen by itself
        assert opened.project.points[0][tail][:2] == pytest.approx((60, 20), abs=0.3)
        hands.drag((30, 30), (40, 50))
        assert opened.project.points[0][nose][:2] == pytest.approx((40, 50), abs=0.3)
        hands.press("q")
        assert opened.project.points[0][nose].visibility.name == "HIDDEN"
        assert not near(hands.colour(40, 50), plain, 30)  # it is hollow now
        hands.press("Control+z")
        assert opened.project.points[0][nose].visibility.name == "VISIBLE"
        hands.go(1)
        hands.press("o")
        assert [point.visibility.name for point in opened.project.points[1].values()] == ["MISSING"]
        hands.fine()


def test_export_from_the_menu_and_download(clip, tmp_path, open_page):
    with served(tmp_path / "p", clip[0]) as (opened, address):
        hands = open_page(address)
        hands.drag((4, 4), (44, 44))
        names = hands.page.locator("#export-format option").evaluate_all("all => all.map(one => one.value)")
        assert {"davis", "coco", "cvat", "yolo", "deeplabcut", "overlay"} <= set(names)
        for name, suffix in (("coco", ".json"), ("davis", ".zip"), ("overlay", ".mp4")):
            hands.press("Control+e")
            hands.page.select_option("#export-format", name)
            hands.page.click("#export-run")
            hands.page.wait_for_selector("#export-link:not([hidden])")
            with hands.page.expect_download() as download:
                hands.page.click("#export-link")
            place = tmp_path / f"got{suffix}"
            download.value.save_as(place)
            assert download.value.suggested_filename.endswith(suffix)
            hands.page.click("#export-close")
        (labels,) = siammae.read_annotations(tmp_path / "got.json")
        assert np.array_equal(labels.masks[1], opened.project.labels(0) == 1)
        assert zipfile.ZipFile(tmp_path / "got.zip").namelist() == ["davis/000.png"]
        assert len(list(siammae.read_frames(tmp_path / "got.mp4"))) == 10
        hands.press("Control+e")
        hands.page.click("#export-run")
        hands.page.get_by_text("tick “replace an earlier export”").wait_for()
        hands.page.check("#export-overwrite")
        hands.page.click("#export-run")
        hands.page.get_by_text("1 frames in").or_(hands.page.get_by_text("10 frames in")).wait_for()


def test_second_tab_sees_what_the_first_does(clip, tmp_path, open_page):
    with served(tmp_path / "p", clip[0]) as (opened, address):
        one, two = open_page(address), open_page(address)
        before = two.colour(100, 70)
        one.press("b")
        one.drag((90, 70), (110, 70))
        for _ in range(100):
            if near(two.colour(100, 70), one.colour(100, 70), 10) and not near(before, two.colour(100, 70), 10):
                break
            two.page.wait_for_timeout(50)
        else:
            pytest.fail("the second tab does not see the stroke")
        two.press("b")
        two.drag((90, 85), (110, 85))
        labels = opened.project.labels(0)
        assert labels[70, 95:105].all()
        assert labels[85, 95:105].all()
        one.fine()
        two.fine()


def test_everything_by_keyboard(clip, tmp_path, open_page):
    video, masks = clip
    with served(tmp_path / "p", video) as (opened, address):
        hands = open_page(address)
        hands.press("w")
        for key, count in (("ArrowLeft", 2), ("ArrowUp", 1)):
            hands.press(*[f"Control+Shift+{key}"] * count)  # from the middle: to 0, 16
        hands.press(*["Control+ArrowUp"] * 3)
        hands.press("Enter", "Control+Shift+ArrowRight", *["Control+ArrowRight"] * 3)
        hands.press("Control+Shift+ArrowDown", *["Control+ArrowDown"] * 2, "Enter")
        assert region_similarity(opened.project.labels(0) == 1, masks[0] == 1) > 0.8
        hands.press("t")
        hands.until_idle()
        assert spans(opened, "followed") == [*range(1, 10)]
        hands.press("ArrowRight", "f", "d")
        hands.shows(1)
        hands.press("v")
        hands.shows(9)
        hands.press("Home")
        hands.shows(0)
        hands.press("l")
        hands.page.wait_for_selector("body:not([data-frame='0'])")
        assert "confidence" in hands.message()
        hands.press("u")
        hands.page.get_by_text("promises most").wait_for()
        proposed = int(hands.page.locator("body").get_attribute("data-frame"))
        assert proposed == opened.attention()["next"]
        hands.press("k")
        assert proposed in spans(opened, "annotated")
        hands.press("e")
        hands.shows(0)
        hands.press("r")
        hands.shows(proposed)
        hands.press("Delete")
        assert spans(opened, "annotated") == [0]
        hands.page.keyboard.type("?")
        assert hands.page.locator("#help").is_visible()
        assert "follow forwards" in hands.page.locator("#keys").inner_text()
        hands.fine()


def test_every_control_has_a_name_fits_and_can_be_read(clip, tmp_path, open_page):
    contrast = """all => all.filter(one => one.checkVisibility() && !one.disabled && one.innerText?.trim()).map(one => {
      const numbers = text => text.match(/[\\d.]+/g).map(Number);
      const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
      const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
      let back = one;
      while (numbers(getComputedStyle(back).backgroundColor)[3] === 0) back = back.parentElement;
      const [a, b] = [getComputedStyle(one).color, getComputedStyle(back).backgroundColor].map(numbers).map(light);
      return [one.innerText, (Math.max(a, b) + .05) / (Math.min(a, b) + .05)];
    })"""
    with served(tmp_path / "p", clip[0]) as (_, address):
        hands = open_page(address)
        page = hands.page
        unnamed = page.locator("button, input, select, canvas").evaluate_all(
            "all => all.filter(one => !(one.getAttribute('aria-label') || one.innerText?.trim() || one.labels?.length)"
            ").map(one => one.outerHTML)"
        )
        assert unnamed == []
        pairs = page.locator("button, label, h1, h2, #frame-state, .legend").evaluate_all(contrast)
        assert len(pairs) > 30
        assert [pair for pair in pairs if pair[1] < 4.5] == []
        for name in ("Undo", "Forward ▶", "Least certain", "Next to annotate", "Export…"):
            place = page.get_by_text(name, exact=True).bounding_box()
            assert place["x"] + place["width"] <= 1280
            assert place["y"] + place["height"] <= 720
        hands.fine()


def test_finger_draws_and_two_fingers_move(clip, tmp_path, open_page):
    with served(tmp_path / "p", clip[0]) as (opened, address):
        hands = open_page(address, has_touch=True, viewport={"width": 1024, "height": 768})
        hands.press("b")
        session = hands.page.context.new_cdp_session(hands.page)

        def touch(kind, *places):
            points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(hands.at(*place) for place in places)]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", (90, 70))
        touch("touchMove", (100, 70))
        touch("touchMove", (110, 70))
        touch("touchEnd")
        hands.settle()
        assert opened.project.labels(0)[70, 92:108].all()
        before = hands.screen()
        touch("touchStart", (40, 40))
        touch("touchStart", (40, 40), (80, 40))
        touch("touchMove", (30, 40), (100, 40))
        touch("touchEnd")
        hands.settle()
        hands.page.wait_for_timeout(100)
        assert not np.array_equal(before, hands.screen())
        hands.fine()


def test_one_image_is_a_video_too(tmp_path, open_page):
    frame = np.full((64, 80, 3), 90, np.uint8)
    frame[20:40, 30:50] = (250, 240, 60)
    write_image(tmp_path / "one.png", frame)
    with served(tmp_path / "p", tmp_path / "one.png") as (opened, address):
        hands = open_page(address)
        hands.drag((24, 14), (56, 46))
        assert (opened.project.labels(0) == 1).sum() == pytest.approx(400, rel=0.1)
        hands.press("t")
        hands.until_idle()
        hands.press("ArrowRight")
        hands.shows(0)
        hands.press("u")
        assert "no frame to propose" in hands.message()
        hands.press("Control+e")
        hands.page.select_option("#export-format", "davis")
        hands.page.click("#export-run")
        hands.page.get_by_text("1 frames in").wait_for()
        assert json.loads((tmp_path / "p" / "project.json").read_text())["video"]["frames"] == 1
        hands.fine()


def phone_video(path):
    """A video that is stored lying and shown upright, with a yellow thing at its upper left as shown."""
    frame = np.full((96, 128, 3), 60, np.uint8)
    frame[64:92, 8:40] = (250, 240, 60)  # a quarter turn brings the lower left to the upper left
    encode(path, [frame] * 5)
    patch_matrix(path, 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    return path


def test_turned_video_of_a_phone_is_upright_and_drawn_on_where_it_is_seen(tmp_path, open_page):
    with served(tmp_path / "p", phone_video(tmp_path / "phone.mp4")) as (opened, address):
        assert opened.project.size == (128, 96)
        hands = open_page(address)
        assert hands.size == (96, 128)
        assert near(hands.colour(18, 24), (250, 240, 60))
        assert near(hands.colour(70, 100), (60, 60, 60))
        hands.drag((1, 4), (36, 46))
        thing = np.zeros((128, 96), bool)
        thing[8:40, 4:32] = True
        assert region_similarity(opened.project.labels(0) == 1, thing) > 0.85
        hands.press("t")
        hands.until_idle()
        assert region_similarity(opened.project.labels(4) == 1, thing) > 0.7
        hands.fine()


def test_broken_video_shows_what_it_has_and_says_what_it_lacks(tmp_path, open_page):
    frames = numbered(60)
    data = encode(tmp_path / "whole.mp4", frames, options={"g": "10"}, index_first=True).read_bytes()
    (tmp_path / "broken.mp4").write_bytes(data[: int(0.7 * len(data))])
    with served(tmp_path / "p", tmp_path / "broken.mp4") as (opened, address):
        hands = open_page(address)
        assert "the file is cut off" in hands.message()
        assert "The frames before can be annotated" in hands.message()
        assert 20 < opened.project.count < 60
        hands.go(20)
        assert near(hands.colour(24, 24), frames[20][24, 24], 45)
        hands.press("b")
        hands.drag((20, 20), (60, 20))
        assert opened.project.labels(20)[20, 25:55].all()


def test_other_name_for_this_machine_gets_nothing(clip, tmp_path, chromium):
    rebound = [
        "--host-resolver-rules=MAP evil.example 127.0.0.1",
        # Newer Chromium has a guard of its own; the server must not need it.
        "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",
    ]
    with (
        served(tmp_path / "p", clip[0]) as (opened, address),
        chromium.browser_type.launch(executable_path=find_chromium(), args=[*OPTIONS, *rebound]) as browser,
    ):
        page = browser.new_page()
        other = address.replace("127.0.0.1", "evil.example")
        assert page.goto(other).status == 403
        assert "error" in page.locator("body").inner_text()
        assert page.locator("#stage").count() == 0
        # What a page of that site can do, once its name leads here: ask as if it were at home
        page.route("**/attack", lambda route: route.fulfill(body="<title>attack</title>", content_type="text/html"))
        page.goto(f"{other}attack")
        asked = "([path, body]) => fetch(path, body ? {method: 'POST', body} : {}).then(answer => answer.status)"
        for path, body in (("/api/project", ""), ("/api/frames/0/image", ""), ("/api/objects", '{"name": "theirs"}')):
            assert page.evaluate(asked, [path, body]) == 403
        assert opened.things()["objects"] == []
        hands = Hands(browser.new_page(), address)  # the same browser, by the true name
        assert [thing["id"] for thing in opened.things()["objects"]] == [1]
        hands.fine()


def test_page_of_another_site_can_neither_read_nor_write(clip, tmp_path, open_page):
    with served(tmp_path / "p", clip[0]) as (opened, address):
        hands = open_page(address)
        page = hands.page.context.new_page()
        page.route(
            "http://localhost:1/", lambda route: route.fulfill(body="<title>x</title>", content_type="text/html")
        )
        page.goto("http://localhost:1/")
        asked = """([address, body]) => fetch(address, body ? {method: 'POST', mode: 'no-cors', body} : {})
          .then(answer => answer.type === 'opaque' ? 'sent' : answer.text(), error => error.name)"""
        assert page.evaluate(asked, [f"{address}api/project", ""]) == "TypeError"
        assert page.evaluate(asked, [f"{address}api/objects", '{"name": "theirs"}']) in ("sent", "TypeError")
        assert [thing["name"] for thing in opened.things()["objects"]] == ["object 1"]
        hands.fine()


def test_neighbours_that_come_too_late_are_fetched_when_they_are_looked_at(tmp_path, open_page, monkeypatch):
    frames = numbered(5)
    (tmp_path / "clip").mkdir()
    for number, frame in enumerate(frames):
        write_image(tmp_path / "clip" / f"{number}.png", frame)
    with served(tmp_path / "p", tmp_path / "clip") as (opened, address):
        monkeypatch.setattr(opened.pictures, "neighbour", lambda number, looked: None)
        hands = open_page(address)
        for number, frame in enumerate(frames):
            hands.shows(number)
            hands.page.wait_for_timeout(100)
            assert near(hands.colour(40, 40), frame[40, 40], 12)
            hands.press("ArrowRight")
        hands.fine()
