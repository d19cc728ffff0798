"""Random labels, and what it means that two are equal."""

from dataclasses import replace

import hypothesis
import numpy as np
from hypothesis import strategies as st

from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject

SIZE = (9, 14)


def given(*strategies):
    """Like hypothesis's, the same examples each time and no clock: a first call may import what is slow to load."""
    settings = hypothesis.settings(deadline=None, max_examples=40, derandomize=True, database=None)
    return lambda test: settings(hypothesis.given(*strategies)(test))


def video(frames, **known):
    frames = list(frames)
    return Annotations(lambda: iter(frames), **{"size": SIZE, **known})


@st.composite
def masks(draw, *, objects=(1, 2, 7), overlap=False, frames=5, size=SIZE):
    """Labels with masks in some of the frames, each frame with at least one object."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    picks = draw(st.lists(st.integers(0, frames - 1), min_size=1, max_size=frames, unique=True))
    labelled = []
    for index in sorted(picks):
        chosen = draw(st.lists(st.sampled_from(objects), min_size=1, unique=True))
        density = draw(st.sampled_from([0.02, 0.5, 1.0]))
        layers = {key: rng.random(size) < density for key in sorted(chosen)}
        if not overlap:
            owner = rng.choice(sorted(chosen), size)
            layers = {key: layer & (owner == key) for key, layer in layers.items()}
        layers = {key: layer for key, layer in layers.items() if layer.any()}
        if layers:
            labelled.append(FrameLabels(index, layers))
    if not labelled:
        labelled = [FrameLabels(0, {objects[0]: np.ones(size, bool)})]
    return video(labelled, objects=tuple(VideoObject(key) for key in objects), frame_count=frames)


@st.composite
def keypoints(draw, *, objects=(1,), joints=("nose", "left ear", "tail"), hidden=False, sure=False, frames=5):
    """Labels with keypoints in some of the frames; some joints are missing."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labelled = []
    for index in range(frames):
        some = {}
        for key in objects:
            seen = rng.choice([0, 1, 2] if hidden else [0, 2], len(joints), p=None)
            seen[rng.integers(len(joints))] = 2
            confidence = rng.random(len(joints)) if sure else np.ones(len(joints))
            some[key] = Keypoints.of(rng.uniform(0, 13, (len(joints), 2)), seen, confidence)
        labelled.append(FrameLabels(index, keypoints=some))
    keep = draw(st.lists(st.sampled_from(labelled), min_size=1, unique_by=lambda frame: frame.index))
    keep.sort(key=lambda frame: frame.index)
    objects = tuple(VideoObject(key) for key in objects)
    return video(keep, objects=objects, joints=joints, frame_count=frames)


def assert_same(got, wanted, *, identity=lambda key: key, masks_only=False, confidence=False):
    """Masks are equal to the pixel, points to 1e-3 pixels."""
    got, wanted = list(got), list(wanted)
    assert [frame.index for frame in got] == [frame.index for frame in wanted]
    for one, other in zip(got, wanted, strict=True):
        assert sorted(one.masks) == sorted(identity(key) for key in other.masks)
        for key, mask in other.masks.items():
            np.testing.assert_array_equal(one.masks[identity(key)], mask)
        if masks_only:
            continue
        assert sorted(one.keypoints) == sorted(identity(key) for key in other.keypoints)
        for key, points in other.keypoints.items():
            same = one.keypoints[identity(key)]
            np.testing.assert_array_equal(same.visibility, points.visibility)
            np.testing.assert_allclose(same.points, points.points, atol=1e-3)
            if confidence:
                seen = points.visibility > 0
                np.testing.assert_allclose(same.confidence[seen], points.confidence[seen], atol=1e-4)


def renamed(annotations, **fields):
    return replace(annotations, **fields)
