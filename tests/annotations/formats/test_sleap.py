import numpy as np
import pytest

from siammae.annotations.files import read_annotations, write_annotations
from siammae.annotations.formats.format import Feature
from siammae.annotations.formats.registry import recognise
from siammae.annotations.model import FrameLabels, Keypoints, VideoObject

from .labels import assert_same, given, keypoints, renamed, video

sio = pytest.importorskip("sleap_io")
BOTH = np.array([[1.5, 2], [3, 4.25]])


def save(path, *instances, second=()):
    video = sio.Video(filename="a/clip.mp4", open_backend=False)
    other = sio.Video(filename="a/other.mp4", open_backend=False)
    frames = [sio.LabeledFrame(video, 3, list(instances))]
    frames += [sio.LabeledFrame(other, 4, list(second))] if second else []
    sio.save_slp(sio.Labels(frames), str(path), verbose=False)
    return path


def skeleton(*names):
    return sio.Skeleton(list(names), edges=[names[:2]])


@given(keypoints(objects=(2, 5), hidden=True, sure=True))
def test_sleap_when_written_and_read_is_equal(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("sleap") / "f.slp"
    full = renamed(labels, skeleton=((0, 2),), objects=(VideoObject(2, "Rex"), VideoObject(5)))
    assert write_annotations(path, full, format="sleap").lost == {}
    assert recognise(path).name == "sleap"
    again = read_annotations(path)
    names = {again.object(1).name: 1, again.object(6).name: 6}
    key = names.get("Rex")
    assert_same(again, labels, identity=lambda one: 5 if one == 5 else key, confidence=True)
    assert (again.joints, again.skeleton) == (labels.joints, ((0, 2),))
    assert {frame.by_person for frame in again} == {False}


def test_sleap_written_is_what_sleap_io_hands_out(tmp_path):
    labels = video([FrameLabels(7, keypoints={1: Keypoints.of(BOTH)}, by_person=True)], joints=("a", "b"))
    write_annotations(tmp_path / "f.slp", labels, format="sleap")
    theirs = sio.load_slp(str(tmp_path / "f.slp"), open_videos=False)
    (frame,) = theirs.labeled_frames
    assert frame.frame_idx == 7
    assert type(frame.instances[0]) is sio.Instance
    np.testing.assert_array_equal(frame.instances[0].numpy(), BOTH)
    (again,) = read_annotations(tmp_path / "f.slp")
    assert again.by_person is True


def test_sleap_says_that_a_persons_confidence_is_lost(tmp_path):
    some, sure = Keypoints.of(BOTH, confidence=np.array([0.5, 1])), Keypoints.of(BOTH)
    frames = [
        FrameLabels(index, keypoints={1: some if index else sure, 2: some if index else sure}, by_person=index < 2)
        for index in range(3)
    ]
    written = write_annotations(tmp_path / "f.slp", video(frames, joints=("a", "b")), format="sleap")
    assert written.lost == {Feature.POINT_CONFIDENCE: 1}  # frames


def test_sleap_takes_a_persons_instance_before_the_prediction(tmp_path):
    bones, track = skeleton("a", "b"), sio.Track("one")
    guess = sio.PredictedInstance.from_numpy(BOTH + 1, skeleton=bones, track=track, point_scores=np.ones(2))
    path = save(tmp_path / "f.slp", guess, sio.Instance.from_numpy(BOTH, skeleton=bones, track=track))
    labels = read_annotations(path)
    (frame,) = labels
    np.testing.assert_array_equal(frame.keypoints[1].points, BOTH)
    assert (frame.by_person, labels.objects) == (True, (VideoObject(1, name="one"),))


def test_sleap_of_several_videos_needs_a_name(tmp_path):
    bones = skeleton("a", "b")
    one, two = (sio.Instance.from_numpy(BOTH + place, skeleton=bones) for place in (0, 5))
    path = save(tmp_path / "f.slp", one, second=[two])
    with pytest.raises(ValueError, match=r"has the videos clip, other\. Name one as the sequence"):
        read_annotations(path)
    (frame,) = read_annotations(path, sequence="other")
    assert frame.index == 4
    np.testing.assert_array_equal(frame.keypoints[1].points, BOTH + 5)


def test_sleap_instances_on_no_track_are_objects_of_their_own_in_a_single_frame(tmp_path):
    bones = skeleton("a", "b")
    made = [sio.Instance.from_numpy(BOTH + place, skeleton=bones) for place in range(2)]
    guess = sio.PredictedInstance.from_numpy(BOTH + 9, skeleton=bones, point_scores=np.ones(2))
    clip = sio.Video(filename="a/clip.mp4", open_backend=False)
    frames = [sio.LabeledFrame(clip, 3, [*made, guess]), sio.LabeledFrame(clip, 5, [guess])]
    sio.save_slp(sio.Labels(frames), str(tmp_path / "f.slp"), verbose=False)
    with pytest.raises(ValueError, match=r"no one can tell which is which in the next frame\. Choose one frame"):
        list(read_annotations(tmp_path / "f.slp"))
    labels = read_annotations(tmp_path / "f.slp", frames=[3])
    (frame,) = labels
    assert [one.id for one in labels.objects] == sorted(frame.keypoints) == [1, 2]  # a person's, not the guess
    np.testing.assert_array_equal(frame.keypoints[2].points, BOTH + 1)
    assert [sorted(frame.keypoints) for frame in read_annotations(tmp_path / "f.slp", frames=[5])] == [[1]]


def test_sleap_that_lies_is_refused(tmp_path):
    (tmp_path / "f.slp").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match="is no file of SLEAP"):
        read_annotations(tmp_path / "f.slp")
    bones = skeleton("a", "b")
    track = sio.Track("one")
    path = save(tmp_path / "g.slp", *(sio.Instance.from_numpy(BOTH, skeleton=bones, track=track) for _ in range(2)))
    with pytest.raises(ValueError, match="frame 3: a track, or none, has two instances"):
        list(read_annotations(path))
    path = save(tmp_path / "h.slp", *(sio.Instance.from_numpy(BOTH, skeleton=skeleton("a", end)) for end in "bc"))
    with pytest.raises(ValueError, match="has 2 skeletons"):
        read_annotations(path)
