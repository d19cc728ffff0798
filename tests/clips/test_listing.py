import numpy as np
import pytest
from PIL import Image

from siammae.clips.clip import Clip
from siammae.clips.listing import find_clips
from siammae.clips.open_clip import OpenClip
from siammae.errors import VideoReadError
from siammae.frames import VideoEndError
from siammae.pretraining.data.sharding import ShardSettings, write_shards
from siammae.pretraining.data.sources import check_clips
from tests.helpers import write_video
from tests.pretraining.runs import run_config
from tests.videos import numbered


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_find_clips_in_a_folder_finds_all_subfolders_in_order(tmp_path):
    touch(tmp_path, "b.mp4", "a/z.AVI", "a/deep/er/c.webm", "notes.txt", "frame.png", "a/.hidden.mp4")
    (tmp_path / "folder.mp4").mkdir()
    clips = find_clips(tmp_path)
    assert [clip.name for clip in clips] == ["a/deep/er/c.webm", "a/z.AVI", "b.mp4"]
    assert [clip.path for clip in clips] == [tmp_path / clip.name for clip in clips]
    assert find_clips(str(tmp_path / "b.mp4")) == [Clip("b.mp4", tmp_path / "b.mp4")]


def test_find_clips_in_a_folder_of_images_makes_each_a_clip(tmp_path):
    touch(tmp_path, "b.png", "a/z.JPG", "notes.txt")
    assert [(clip.name, clip.kind) for clip in find_clips(tmp_path)] == [("a/z.JPG", "image"), ("b.png", "image")]


def test_find_clips_in_a_list_keeps_its_order(tmp_path):
    touch(tmp_path, "in/b.mp4", "a b.bin", "c.png")
    (tmp_path / "list.txt").write_text("# training\nin/b.mp4\n\n  a b.bin  \nin/../c.png\n", encoding="utf-8")
    assert [(c.name, c.kind) for c in find_clips(tmp_path / "list.txt")] == [
        ("in/b.mp4", "video"),
        ("a b.bin", "video"),
        ("c.png", "image"),
    ]


def test_find_clips_in_a_table_cuts_clips_out_of_videos(tmp_path):
    touch(tmp_path, "in/b.mp4", "a.mp4")
    (tmp_path / "cuts.csv").write_text("path,start,stop\nin/b.mp4,1.5,3\nin/b.mp4,3,\nin/b.mp4,,0.25\na.mp4,,\n")
    clips = find_clips(tmp_path / "cuts.csv")
    assert [clip.name for clip in clips] == ["in/b.mp4@1.5-3", "in/b.mp4@3-", "in/b.mp4@0-0.25", "a.mp4"]
    assert [(clip.start, clip.stop) for clip in clips] == [(1.5, 3), (3, None), (None, 0.25), (None, None)]
    assert {clip.path.name for clip in clips} == {"a.mp4", "b.mp4"}
    (tmp_path / "cuts.csv").write_text("\ufeffpath\na.mp4\n", encoding="utf-8")
    assert [clip.name for clip in find_clips(tmp_path / "cuts.csv")] == ["a.mp4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,start\na.mp4,1", r"has no column path: the first line must be path,start,stop, but is video,start"),
        ("", r"has no column path: the first line must be path,start,stop, but is nothing"),
        ("path,start,start\na.mp4,1,2", r"cuts\.csv has the column start twice"),
        ("path,label\na.mp4,1", r"cuts\.csv has the column 'label': there may be path, start, stop"),
        ("path,start,stop\na.mp4,1,2,3", r"cuts\.csv, line 2 has 4 values for the 3 columns path,start,stop"),
        ("path,start,stop\n,1,2", r"cuts\.csv, line 2 has no path: it must be path,start,stop"),
        ("path,start,stop\na.mp4,one,2", r"cuts\.csv, line 2 has start 'one': it must be seconds from 0 up"),
        ("path,start,stop\na.mp4,,-2", r"has stop '-2': it must be seconds from 0 up, or empty"),
        ("path,start,stop\na.mp4,inf,", r"has start 'inf'"),
        ("path,start,stop\na.mp4,2,2", r"cuts\.csv, line 2 stops at 2 s: it must be after the start, 2 s"),
        ("path,start,stop\na.mp4,,0", r"stops at 0 s: it must be after the start, 0 s"),
        ("path,start,stop\na.png,1,2", r"cuts\.csv, line 2 cuts a\.png in time: it is an image"),
        ("path,start,stop\na.mp4,1,2\na.mp4,1.0,2.0", r"cuts\.csv lists 'a\.mp4@1-2' twice"),
        ('path,start,stop\n"a.mp4,1,2\n', r"cuts\.csv, line 2 cannot be read as a table: unexpected end of data"),
        ("path,start,stop\n../a.mp4,1,2", r"cuts\.csv lists '\.\./a\.mp4', which leaves"),
    ],
)
def test_find_clips_in_a_malformed_table_is_refused(tmp_path, text, message):
    touch(tmp_path, "a.mp4", "a.png")
    (tmp_path / "cuts.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        find_clips(tmp_path / "cuts.csv")


def test_find_clips_in_a_list_that_repeats_itself_is_refused(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "list.txt").write_text("a.mp4\n./a.mp4\n")
    with pytest.raises(ValueError, match=r"list\.txt lists 'a\.mp4' twice: a clip may be listed once"):
        find_clips(tmp_path / "list.txt")


@pytest.mark.parametrize("line", ["../out.mp4", "/etc/hostname", "in/../../out.mp4"])
def test_find_clips_in_a_list_that_leaves_its_folder_is_refused(tmp_path, line):
    touch(tmp_path, "out.mp4", "here/list.txt")
    (tmp_path / "here" / "list.txt").write_text(line)
    with pytest.raises(ValueError, match=rf"list\.txt lists '{line}', which leaves .*here"):
        find_clips(tmp_path / "here" / "list.txt")


def test_find_clips_follows_links_out_of_the_folder_in_a_list_as_in_a_search(tmp_path):
    touch(tmp_path, "far/a.mp4", "here/b.mp4")
    here = tmp_path / "here"
    (here / "link.mp4").symlink_to(tmp_path / "far" / "a.mp4")
    (here / "list.txt").write_text("b.mp4\nlink.mp4\n")
    assert find_clips(here / "list.txt") == find_clips(here)
    (tmp_path / "way").symlink_to(here)
    (here / "list.txt").write_text(f"{here}/b.mp4\n{tmp_path}/way/link.mp4\n")
    assert [clip.name for clip in find_clips(tmp_path / "way" / "list.txt")] == ["b.mp4", "link.mp4"]


def test_find_clips_in_a_list_with_a_zero_byte_names_the_list(tmp_path):
    (tmp_path / "list.txt").write_text("a\0.mp4\n")
    with pytest.raises(FileNotFoundError, match=r"list\.txt lists 'a\\x00\.mp4', but there is no file"):
        find_clips(tmp_path / "list.txt")


def test_find_clips_where_there_are_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*nowhere: pass a folder of videos"):
        find_clips(tmp_path / "nowhere")
    (tmp_path / "list.txt").write_text("missing.mp4")
    with pytest.raises(FileNotFoundError, match=r"lists 'missing\.mp4', but there is no file .*missing\.mp4"):
        find_clips(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("# nothing\n")
    (tmp_path / "cuts.csv").write_text("path\n")
    for source in (tmp_path, tmp_path / "list.txt", tmp_path / "cuts.csv"):
        with pytest.raises(ValueError, match=r"holds no video: known are \.mp4"):
            find_clips(source)


def test_check_clips_refuses_images_alone_unless_all_pairs_are_still(tmp_path):
    images = [Clip(name, tmp_path / name, kind="image") for name in ("a.png", "b.JPG")]
    message = r"holds only single images \(a\.png\) but still_share is 0\.5: .*Set still_share to 1"
    with pytest.raises(ValueError, match=message):
        check_clips(images, run_config(videos=tmp_path, still_share=0.5))
    check_clips(images, run_config(videos=tmp_path, still_share=1.0))
    check_clips([*images, Clip("c.mp4", tmp_path / "c.mp4")], run_config(videos=tmp_path, still_share=0.0))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "a.avi", numbered(50), fps=25)


@pytest.mark.parametrize(
    ("start", "stop", "first", "count"),
    [(None, None, 0, 50), (0.4, 1.2, 10, 20), (1.2, None, 30, 20), (None, 0.4, 0, 10), (1.21, 9.0, 31, 19)],
)
@pytest.mark.parametrize("reader", ["opencv", "pyav"])
def test_open_clip_numbers_the_frames_of_a_cut_from_0(video, start, stop, first, count, reader):
    with OpenClip(Clip("a", video, start=start, stop=stop), reader) as clip:
        assert (clip.count, clip.step, clip.frame_rate, clip.random_access) == (count, 1, 25, False)
        for number, frame in clip.frames([0, 3, count - 1]):
            assert np.abs(frame.astype(int) - numbered(50)[first + number]).mean() < 12
        for numbers in ([count], [0, count + 70], range(10**6)):
            with pytest.raises(VideoEndError, match=f"ends after {count} frames"):
                list(clip.frames(numbers))
        assert [number for number, _ in clip.every_frame()] == list(range(count))
        assert clip.measure() == count


def test_open_clip_of_a_cut_after_the_end_is_refused(video):
    with (
        OpenClip(Clip("a@5-6", video, start=5, stop=6)) as clip,
        pytest.raises(VideoReadError, match=r"a@5-6: it begins at 5 s, but .*a\.avi is 2 s long"),
    ):
        clip.count  # noqa: B018


def test_open_clip_of_a_cut_in_a_file_without_a_rate_is_refused(tmp_path):
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    with (
        OpenClip(Clip("a", tmp_path / "a.png", kind="video", start=1)) as clip,
        pytest.raises(VideoReadError, match=r"a: .*a\.png has no frame rate, so that times cannot be found in it"),
    ):
        clip.count  # noqa: B018


def test_open_clip_shrinks_its_frames_and_opens_nothing_unasked(video):
    with OpenClip(Clip("a", video), short_side=48) as clip:
        assert next(clip.frames([0]))[1].shape == (48, 64, 3)
    with OpenClip(Clip("a", video.with_name("gone.avi"))):
        pass


@pytest.mark.parametrize(("name", "form"), [("a.tif", "TIFF"), ("a.webp", "WEBP"), ("a.png", "PNG"), ("a.gif", "GIF")])
def test_pages_of_an_image_are_the_frames_of_one_clip(name, form, tmp_path):
    pages = [Image.new("RGB", (16, 16), (0, 80 * index, 0)) for index in range(3)]
    pages[0].save(tmp_path / name, form, save_all=True, append_images=pages[1:], lossless=True)
    pages[0].save(tmp_path / "single.png")
    (tmp_path / "damaged.tif").write_bytes(b"II*\0no image")
    clips = {clip.name: clip for clip in find_clips(tmp_path)}
    several = name if form == "GIF" else f"{name}@pages"
    assert {name: (clip.kind, clip.is_image) for name, clip in clips.items()} == {
        several: ("video", False),
        "single.png": ("image", True),
        "damaged.tif": ("image", True),
    }
    with OpenClip(clips[several]) as opened:
        greens = [int(frame[..., 1].mean()) for _, frame in opened.every_frame()]
    np.testing.assert_allclose(greens, [0, 80, 160], atol=2)
    check_clips(list(clips.values()), run_config(videos=tmp_path, still_share=0.5))


def test_pages_of_an_image_in_shards_are_one_clip_of_several_frames(tmp_path):
    (tmp_path / "stacks").mkdir()
    pages = [Image.new("RGB", (16, 16), (0, 80 * index, 0)) for index in range(3)]
    pages[0].save(tmp_path / "stacks" / "a.tif", save_all=True, append_images=pages[1:])
    write_shards(tmp_path / "stacks", tmp_path / "shards", ShardSettings(format="png"))
    (clip,) = find_clips(tmp_path / "shards")
    assert (clip.name, clip.is_image) == ("a.tif@pages", False)
    with OpenClip(clip) as opened:
        assert [int(frame[..., 1].mean()) for _, frame in opened.every_frame()] == [0, 80, 160]


def test_folders_of_images_are_videos_where_whole_videos_are_wanted(tmp_path):
    touch(tmp_path, "a/0.png", "a/1.png", "b/c/0.jpg", "notes.txt")
    clips = find_clips(tmp_path, folders=True)
    assert [(clip.name, clip.kind) for clip in clips] == [("a", "frames"), ("b/c", "frames")]
    (tmp_path / "list.txt").write_text("a\nb/c/0.jpg\ngone.mp4\n")
    clips = find_clips(tmp_path / "list.txt", folders=True)
    assert [(clip.name, clip.kind) for clip in clips] == [
        ("a", "frames"),
        ("b/c/0.jpg", "image"),
        ("gone.mp4", "video"),
    ]
    (tmp_path / "cuts.csv").write_text("path,start,stop\na,1,2\n")
    with pytest.raises(ValueError, match=r"it is a folder of images\. Leave start and stop empty"):
        find_clips(tmp_path / "cuts.csv", folders=True)
    touch(tmp_path, "b/v.mp4")
    assert [clip.name for clip in find_clips(tmp_path, folders=True)] == ["b/v.mp4"]
