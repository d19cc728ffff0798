"""How fast training pairs are read: from videos by each reader that is installed, and from shards.

python benchmarks/bench_data.py CLIPS [--repeats N] [--clips N] [--short-side PIXELS] [--gpu-pairs-per-second N]

CLIPS is a folder of videos. Each way draws the same pairs, in turn in one process, and is timed in CPU
seconds, so that decoders which take several threads gain nothing by them: the figures are pairs a second and core.
"With cache" is the second and later epochs, when all clips are in memory.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import torch
from interleaved import headline

from siammae import ModelConfig, PretrainConfig
from siammae.clips.clip import Clip
from siammae.clips.listing import find_clips
from siammae.frames import require_reader
from siammae.pretraining.data.pairs import VideoPairs
from siammae.pretraining.data.sharding import ShardSettings, write_shards

READERS = ("opencv", "pyav", "torchcodec")


def installed() -> list[str]:
    names = []
    for name in READERS:
        try:
            require_reader(name)
        except ImportError as error:
            print(f"left out: {error}\n")
        else:
            names.append(name)
    return names


def median_rates(ways: Mapping[str, VideoPairs], repeats: int, *, prepare: bool) -> dict[str, float]:
    """Return pairs a CPU second of one epoch; ways take turns, each in another epoch every round."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats):
        for name, pairs in ways.items():
            clips = len(pairs.clips)
            if prepare and turn == 0:
                _seconds(pairs, range(clips))
            count = clips * pairs.config.samples_per_video
            rates[name].append(count / _seconds(pairs, range((turn + 1) * clips, (turn + 2) * clips)))
    return {name: statistics.median(some) for name, some in rates.items()}


def _seconds(pairs: VideoPairs, positions: range) -> float:
    start = time.process_time()
    for position in positions:
        pairs[position]
    return time.process_time() - start


def ways(clips: list[Clip], shards: list[Clip], config: Callable[..., PretrainConfig]) -> dict[str, VideoPairs]:
    loose = {f"videos, {name}": VideoPairs(clips, config(reader=name)) for name in installed()}
    return {**loose, "shards (JPEG)": VideoPairs(shards, config())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", metavar="CLIPS")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clips", dest="count", type=int, default=60, help="clips taken, evenly spread (%(default)s)")
    parser.add_argument("--short-side", type=int, default=256)
    parser.add_argument("--cache-mb", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=2, help="pairs of a clip (%(default)s)")
    parser.add_argument("--gpu-pairs-per-second", type=float, nargs="+", default=[500, 2000])
    args = parser.parse_args()
    cv2.setNumThreads(1)  # as in each of several workers
    torch.set_num_threads(1)
    print(headline() + "\n")
    everything = find_clips(args.clips)
    clips = everything[:: max(1, len(everything) // args.count)][: args.count]

    def config(**fields: object) -> PretrainConfig:
        return PretrainConfig(
            videos=args.clips,
            output_dir="unused",
            model=ModelConfig.vit("small"),
            short_side=args.short_side,
            samples_per_video=args.samples,
            max_skipped=0.5,
            **fields,
        )

    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "shards"
        start = time.process_time()
        report = write_clips(clips, listed, args.short_side)
        took = time.process_time() - start
        loose = sum(path.stat().st_size for path in {clip.path for clip in clips})
        size = sum(path.stat().st_size for path in listed.glob("*.tar"))
        shards = find_clips(listed)
        plain = median_rates(ways(clips, shards, config), args.repeats, prepare=False)
        cached = median_rates(
            ways(clips, shards, lambda **fields: config(cache_mb=args.cache_mb, **fields)), args.repeats, prepare=True
        )
    print(
        f"{len(clips)} clips, {args.samples} pairs of each an epoch, crops of 224 x 224, short side {args.short_side}."
    )
    sizes = f"{size / 2**20:.0f} MiB (the videos: {loose / 2**20:.0f} MiB)"
    print(f"Shards: {report} clips in {took:.0f} CPU seconds, {sizes}.\n")
    needs = " | ".join(f"workers for {speed:g} pairs/s" for speed in args.gpu_pairs_per_second)
    print(f"| way | pairs/s and core | with cache | {needs} |")
    print("| --- | --- | --- |" + " --- |" * len(args.gpu_pairs_per_second))
    for name, rate in plain.items():
        workers = " | ".join(f"{speed / rate:.1f}" for speed in args.gpu_pairs_per_second)
        print(f"| {name} | {rate:.0f} | {cached[name]:.0f} | {workers} |")
    print("\nWorkers without cache: pairs a second that the GPU takes, over those of a core.")


def write_clips(clips: list[Clip], folder: Path, short_side: int) -> int:
    """Write just these clips as shards, through a list of links beside them; returns how many."""
    source = folder.parent / "source"
    for clip in clips:
        link = source / clip.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(clip.path.absolute())
    return write_shards(source, folder, ShardSettings(short_side=short_side), workers=1).clips


if __name__ == "__main__":
    main()
