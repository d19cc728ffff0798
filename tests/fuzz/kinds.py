"""What is damaged, and what then reads it: five kinds of files from strangers."""

import io
import json
import os
import pickle
import shutil
import struct
from contextlib import suppress
from itertools import islice

import numpy as np
import torch
from PIL import Image

import siammae
from siammae.annotations.formats.registry import FORMATS
from siammae.annotations.keypoints import read_points
from siammae.annotations.model import Annotations, FrameLabels, Keypoints, VideoObject
from siammae.clips.listing import find_clips
from siammae.clips.open_clip import OpenClip
from siammae.convert import convert_checkpoint
from siammae.frames import VideoEndError, count_frames, frame_rate
from siammae.pretraining.checkpoint import load_state, save_state
from siammae.pretraining.data.sharding import ShardSettings, write_shards
from tests.convert.foreign import foreign_tensors
from tests.fuzz.mutations import damage, damage_text, mend_png
from tests.helpers import moving_square, tiny_model
from tests.pretraining.runs import make_clips, run_config
from tests.videos import encode, numbered

_MOST_FRAMES = 40  # of a file that is read: a damaged length may promise millions


class Images:
    """Pictures of all formats, with pages where they have them; read as frames and as masks."""

    def make(self, folder):
        rng = np.random.default_rng(0)
        frames = [Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)) for _ in range(3)]
        grey = Image.fromarray(np.repeat(np.repeat(np.eye(6, 8, dtype=np.uint8) * 3, 4, 0), 4, 1))
        exif = Image.Exif()
        exif[274] = 6
        pages = {"save_all": True, "append_images": frames[1:], "duration": 40}
        frames[0].save(folder / "rgb.png")
        frames[0].save(folder / "apng.png", **pages)
        frames[0].save(folder / "a.jpg", exif=exif)
        frames[0].save(folder / "progressive.jpg", progressive=True)
        frames[0].save(folder / "a.gif", **pages)
        frames[0].save(folder / "a.webp", **pages)
        frames[0].save(folder / "lossless.webp", lossless=True)
        frames[0].save(folder / "a.bmp")
        for compression in ("raw", "tiff_lzw", "tiff_deflate", "jpeg"):
            frames[0].save(folder / f"{compression}.tif", compression=compression, **pages)
        grey.save(folder / "ids.png")
        grey.convert("P").save(folder / "palette.png")
        Image.fromarray(np.arange(768, dtype=np.uint16).reshape(24, 32) * 80).save(folder / "deep.png")

    def damage(self, rng, folder, target):
        path = _pick(rng, folder)
        data = damage(rng, path.read_bytes())
        (target / path.name).write_bytes(mend_png(data) if path.suffix == ".png" and rng.random() < 0.7 else data)
        return target / path.name

    def read(self, rng, path):
        if rng.random() < 0.3:
            siammae.read_mask(path)
        _read_video(path, "auto")


class Videos:
    """Codecs and containers; read by PyAV and by OpenCV in turn."""

    def make(self, folder):
        frames = numbered(14, (48, 64))
        for name, codec in (
            ("h264.mp4", "libx264"),
            ("h264.mkv", "libx264"),
            ("h264.ts", "libx264"),
            ("mpeg4.avi", "mpeg4"),
            ("vp9.webm", "libvpx-vp9"),
            ("mpeg2.mpg", "mpeg2video"),
            ("h264.mov", "libx264"),
            ("av1.mp4", "libsvtav1"),
        ):
            with suppress(ValueError, LookupError):  # an FFmpeg without this encoder
                encode(folder / name, frames, codec, {"preset": "12"} if codec == "libsvtav1" else None)
        encode(folder / "mjpeg.avi", frames, "mjpeg", pixels="yuvj420p")

    def damage(self, rng, folder, target):
        path = _pick(rng, folder)
        (target / path.name).write_bytes(damage(rng, path.read_bytes()))
        return target / path.name

    def read(self, rng, path):
        _read_video(path, "pyav" if rng.random() < 0.5 else "opencv")


class Checkpoints:
    """Folders of ours, other projects' files, states of training."""

    def make(self, folder):
        tiny_model().save_pretrained(folder / "ours")
        torch.save({"model": foreign_tensors("timm_vit_small_patch16", depth=1)}, folder / "foreign.pth")
        torch.save(
            {"model": foreign_tensors("mae_vitb16_encoder", depth=1)},
            folder / "old.pth",
            _use_new_zipfile_serialization=False,
        )
        config = run_config("clips", folder / "run")
        parts = {"model": tiny_model().state_dict(), "optimizer": {"state": {}, "param_groups": []}}
        save_state(config, parts, 3)

    def damage(self, rng, folder, target):
        name = str(rng.choice(["ours", "ours", "ours", "foreign.pth", "old.pth", "run"]))
        source = folder / name
        if source.is_file():
            data = source.read_bytes()
            if rng.random() < 0.2:
                data = _hostile_pickle(rng, target / "ran")
            (target / name).write_bytes(damage(rng, data))
            return target / name
        shutil.copytree(source, target / name)
        path = _pick(rng, target / name)
        if path.suffix == ".json":
            content = damage_json(rng, json.loads(path.read_text())) if rng.random() < 0.6 else None
            path.write_bytes(damage_text(rng, path.read_bytes()) if content is None else content)
        elif path.suffix == ".safetensors" and rng.random() < 0.6:
            path.write_bytes(_damage_header(rng, path.read_bytes()))
        else:
            path.write_bytes(damage(rng, path.read_bytes()))
        return target / name

    def read(self, rng, path):
        if path.suffix == ".pth":
            try:
                convert_checkpoint(path, path.with_name("converted"))
            finally:
                if path.with_name("ran").exists():
                    raise AssertionError("code of a pickle ran")
        elif path.name == "run":
            load_state(path, run_config("clips", path))
        else:
            siammae.SiamMAE.from_pretrained(path)


class Shards:
    """Tars of frames and their index."""

    def make(self, folder):
        make_clips(folder / "clips", 3)
        for kind in ("png", "jpg"):
            write_shards(folder / "clips", folder / kind, ShardSettings(short_side=24, format=kind))
        shutil.rmtree(folder / "clips")

    def damage(self, rng, folder, target):
        kind = str(rng.choice(["png", "jpg"]))
        shutil.copytree(folder / kind, target / kind)
        path = _pick(rng, target / kind)
        if path.suffix == ".json":
            content = damage_json(rng, json.loads(path.read_text()))
            path.write_bytes(content if rng.random() < 0.6 else damage_text(rng, path.read_bytes()))
            return target / kind
        data = damage(rng, path.read_bytes())
        path.write_bytes(_mend_tar(data) if rng.random() < 0.7 else data)
        return path if rng.random() < 0.5 else target / kind

    def read(self, rng, path):
        for clip in find_clips(path):
            with suppress(VideoEndError), OpenClip(clip) as opened:
                count = max(1, min(opened.count, 10**6))
                numbers = sorted({0, int(rng.integers(count)), count - 1})
                for _ in opened.frames([number // opened.step * opened.step for number in numbers]):
                    pass


class Tables:
    """Keypoints, cuts, tracks, lists, and labels in every format that is written."""

    def make(self, folder):
        (folder / "points.csv").write_text("name,x,y\nnose,3.5,4\ntail,8,9.25\n")
        (folder / "cuts").mkdir()
        (folder / "cuts" / "cuts.csv").write_text("path,start,stop\na.avi,0,0.1\na.avi,0.1,\n")
        (folder / "cuts" / "list.txt").write_text("# clips\na.avi\n")
        shutil.copy(make_clips(folder / "made", 1) / "clip0.avi", folder / "cuts" / "a.avi")
        shutil.rmtree(folder / "made")
        _, masks = moving_square(3, (24, 32), 8, (2, 2))
        pair = Keypoints.of(np.array([[3.0, 4.0], [8.5, 9.25]]))
        frames = [FrameLabels(index, {1: mask.astype(bool)}, {1: pair}) for index, mask in enumerate(masks)]
        objects = (VideoObject(1, "Rex", "dog"),)
        labels = Annotations(lambda: iter(frames), objects, ("nose", "tail"), ((0, 1),), (24, 32), 3)
        for one in FORMATS:
            if one.write is not None:
                siammae.write_annotations(folder / f"labels-{one.name}{one.suffix}", labels, format=one.name)
        np.save(folder / "labels-npy.npy", masks)
        first, *others = (Image.fromarray(mask) for mask in masks)
        first.save(folder / "labels-tiff.tif", save_all=True, append_images=others)

    def damage(self, rng, folder, target):
        source = sorted(folder.iterdir())[rng.integers(len(list(folder.iterdir())))]
        place = target / source.name
        shutil.copytree(source, place) if source.is_dir() else shutil.copy(source, place)
        path = _pick(rng, place) if place.is_dir() else place
        data = path.read_bytes()
        if path.suffix == ".json" and rng.random() < 0.5:
            path.write_bytes(damage_json(rng, json.loads(data)))
        elif path.suffix in (".png", ".slp", ".npy", ".tif", ".avi"):
            path.write_bytes(damage(rng, data))
        else:
            path.write_bytes(damage_text(rng, data))
        return path if place.name == "cuts" else place

    def read(self, rng, path):
        if path.name == "points.csv":
            read_points([(None, path)])
        elif path.parent.name == "cuts":
            for clip in find_clips(path):
                with suppress(VideoEndError), OpenClip(clip) as opened:
                    list(islice(opened.frames(range(_MOST_FRAMES)), _MOST_FRAMES))
        else:
            name = path.stem.removeprefix("labels-")
            known = {one.name for one in FORMATS if one.read is not None}
            size = None if rng.random() < 0.5 else (24, 32)
            format = name if name in known and rng.random() < 0.5 else None
            labels = siammae.read_annotations(path, format=format, size=size)
            for _ in islice(labels, _MOST_FRAMES):
                pass


KINDS = {"images": Images, "videos": Videos, "checkpoints": Checkpoints, "shards": Shards, "tables": Tables}


def _pick(rng, folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return files[rng.integers(len(files))]


def _read_video(path, reader):
    count_frames(path, reader=reader)
    frame_rate(path, reader=reader)
    for _ in islice(siammae.read_frames(path, reader=reader), _MOST_FRAMES):
        pass


def damage_json(rng, content):
    """Replace one to three values somewhere in JSON by values that no one thinks of."""
    strange = (
        None, True, -1, 0, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", "é\x00", "../../x", [], {},
        [[]], {"a": None}, "9" * 5000, [0] * 1000, 0.5, 3, 7, 1_000_000, "float16",
    )  # fmt: skip
    root = [content]
    for _ in range(rng.integers(1, 4)):
        place, key = root, 0
        while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.85:
            place = place[key]
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = keys[rng.integers(len(keys))]
        if rng.random() < 0.15 and isinstance(place, dict):
            del place[key]
        else:
            place[key] = strange[rng.integers(len(strange))]
        if not root:
            root = [content]
    return json.dumps(root[0]).encode()


def _damage_header(rng, data):
    """Change what a safetensors file says of its tensors, and keep the header's length right."""
    (length,) = struct.unpack("<Q", data[:8])
    header = damage_json(rng, json.loads(data[8 : 8 + length]))
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def _mend_tar(data):
    """Make the checksum of a tar's first header right again."""
    data = bytearray(data)
    if len(data) >= 512:
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


class _Call:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def _hostile_pickle(rng, ran):
    """A pickle that would run code, or that unpacks to much."""
    made = io.BytesIO()
    if rng.random() < 0.5:
        pickle.dump({"model": _Call(str(ran))}, made)
    else:
        torch.save({"model": {f"t{i}": torch.zeros(1) for i in range(int(rng.integers(1, 300)))}}, made)
    return made.getvalue()
