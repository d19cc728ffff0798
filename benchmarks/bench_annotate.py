"""How long the page of ``siammae annotate`` waits for the server, and how much memory that takes.

``python benchmarks/bench_annotate.py make VIDEO --keyint 250`` makes ten minutes of 1080p H.264 out of the demo clip
(one minute, enlarged and moved, ten times over); ``... ask VIDEO`` starts the server on it and asks as the page does:
one frame after the other, frames anywhere, strokes, boxes; then it follows, and asks again meanwhile.
``... decode VIDEO`` decodes frames so far behind a key frame, in this process: CPU time holds on a shared machine too.
"""

import argparse
import http.client
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import av
import cv2
import numpy as np

from siammae.annotate.pictures import BEHIND
from siammae.frames import read_frames
from siammae.frames.pyav_reader import timeline_of
from siammae.frames.random_access import FrameAccess

CLIP = Path(__file__).parents[1] / "examples" / "data" / "walkers.mp4"
SIZE, RATE, SECONDS, TIMES = (1080, 1920), 30, 60, 10


def pictures():
    """A minute of the clip, there and back, under a moving window; large enough that nothing is a plain repetition."""
    frames = [cv2.resize(frame, (2240, 1920), interpolation=cv2.INTER_CUBIC) for frame in read_frames(CLIP)]
    turn = 2 * len(frames) - 2
    for index in range(SECONDS * RATE):
        place = index // 3 % turn
        x, y = int(160 + 150 * np.sin(index / 90)), int(420 + 400 * np.sin(index / 140))
        frame = frames[place if place < len(frames) else turn - place]
        yield np.ascontiguousarray(frame[y : y + SIZE[0], x : x + SIZE[1]])


def make(path, keyint):
    """Encode a minute and write its packets so many times."""
    packets = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=RATE, options={"preset": "veryfast", "crf": "23", "g": str(keyint)}
        )
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for picture in pictures():
            packets += stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24"))
        packets += stream.encode()
        rows = [(bytes(p), p.pts, p.dts, p.duration, p.is_keyframe, p.time_base) for p in packets]
        length = round(SECONDS / rows[0][5])
        for turn, (data, pts, dts, duration, key, base) in itertools.product(range(TIMES), rows):
            packet = av.Packet(data)
            packet.pts, packet.dts, packet.duration = pts + turn * length, dts + turn * length, duration
            packet.stream, packet.time_base, packet.is_keyframe = stream, base, key
            container.mux(packet)


class Server:
    """The command, as a person starts it."""

    def __init__(self, video, folder):
        argv = [
            sys.executable,
            "-m",
            "siammae",
            "annotate",
            str(video),
            "-o",
            str(folder),
            "--no-browser",
            "--port",
            "0",
        ]
        began = time.perf_counter()
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        printed = ""
        while not (found := re.search(r"http://[^:]+:(\d+)/", printed)):
            printed += self.process.stdout.readline()
        self.seconds = time.perf_counter() - began
        self.connection = http.client.HTTPConnection("127.0.0.1", int(found[1]))
        self.count = self.ask("/api/project")["video"]["frames"]

    def ask(self, path, body=None):
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        self.connection.request("GET" if body is None else "POST", path, data)
        answer = self.connection.getresponse()
        result = answer.read()
        if answer.status != 200:
            raise RuntimeError(result)
        return json.loads(result) if answer.headers["content-type"] == "application/json" else result

    def timed(self, *asked, pause=0.0):
        """Ask for everything, one after the other; returns milliseconds of each."""
        taken = []
        for one in asked:
            time.sleep(pause)
            began = time.perf_counter()
            self.ask(*one)
            taken.append(1000 * (time.perf_counter() - began))
        return taken

    def peak(self):
        """The most memory so far, in MB."""
        return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1]) / 1024


def show(what, taken):
    taken = sorted(taken)
    middle, most = statistics.median(taken), taken[int(0.9 * (len(taken) - 1))]
    print(f"{what:44} median {middle:5.0f} ms, 9 of 10 under {most:5.0f}, all under {taken[-1]:5.0f}", flush=True)


def image(frame):
    return (f"/api/frames/{frame}/image",)


def ask(video, jumps, followed):
    """Print everything."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(video, Path(folder) / "project")
        print(f"{server.count} frames; ready after {server.seconds:.1f} s; {server.peak():.0f} MB", flush=True)
        rng = np.random.default_rng(0)
        server.ask("/api/frames/1000/image")
        show("next frame, as fast as possible", server.timed(*(image(f) for f in range(1001, 1061))))
        show("next frame, ten a second", server.timed(*(image(f) for f in range(1061, 1091)), pause=0.1))
        show("previous frame, ten a second", server.timed(*(image(f) for f in range(1089, 1059, -1)), pause=0.1))
        places = rng.integers(0, server.count, jumps).tolist()
        show("a frame anywhere", server.timed(*(image(f) for f in places), pause=0.6))
        server.ask("/api/objects", {})
        patch = zlib.compress(np.ones((200, 200), np.uint8).tobytes())
        paths = [f"/api/frames/0/paint?left={100 + 20 * i}&top=300&width=200&height=200" for i in range(30)]
        show("a stroke of 200 x 200 pixels, saved", server.timed(*((path, patch) for path in paths)))
        boxes = [{"object": 1, "box": [500 + 10 * i, 200, 900 + 10 * i, 800]} for i in range(10)]
        show(
            "a box of 400 x 600 pixels, cut out and saved", server.timed(*(("/api/frames/0/cut", box) for box in boxes))
        )
        show("labels of a frame", server.timed(*[("/api/frames/0/labels",)] * 30))
        print(f"most memory: {server.peak():.0f} MB", flush=True)
        began = time.perf_counter()
        server.ask("/api/follow", {"frame": 0, "direction": "forward", "limit": followed})
        show(
            "while following: next frame, ten a second", server.timed(*(image(f) for f in range(2000, 2030)), pause=0.1)
        )
        show(
            "while following: a frame anywhere",
            server.timed(*(image(f) for f in rng.integers(0, server.count, 15).tolist()), pause=0.6),
        )
        while server.ask("/api/project")["run"]["state"] != "idle":
            time.sleep(0.2)
        print(f"{followed} frames followed in {time.perf_counter() - began:.1f} s, most memory: {server.peak():.0f} MB")
        server.process.terminate()
        server.process.wait()


def decode(video):
    """Print what a frame costs by its distance from the key frame before it."""
    access = FrameAccess(video, behind=BEHIND)
    keys = timeline_of(video).keys
    for distance in (0, 60, 125, 180, 249):
        groups = [int(key) for key, end in itertools.pairwise(keys) if end - key > distance][:6]
        cpu, wall = [], []
        for key in groups:
            access.frame(access.count - 1)  # far away
            began, used = time.perf_counter(), time.process_time()
            access.frame(key + distance)
            wall.append(1000 * (time.perf_counter() - began))
            cpu.append(1000 * (time.process_time() - used))
        print(
            f"{distance:3} after a key frame: CPU {min(cpu):4.0f} to {max(cpu):4.0f} ms, "
            f"on the clock {min(wall):4.0f} to {max(wall):4.0f}"
        )
    access.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "ask", "decode"))
    parser.add_argument("video", type=Path)
    parser.add_argument("--keyint", type=int, default=250, help="most frames between two key frames (%(default)s)")
    parser.add_argument("--jumps", type=int, default=60)
    parser.add_argument("--followed", type=int, default=60)
    args = parser.parse_args()
    if args.what == "make":
        make(args.video, args.keyint)
    elif args.what == "decode":
        decode(args.video)
    else:
        ask(args.video, args.jumps, args.followed)


if __name__ == "__main__":
    main()
