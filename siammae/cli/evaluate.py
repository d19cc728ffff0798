"""``siammae evaluate``: scores on public benchmarks."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from siammae.cli.entries import find_entries
from siammae.cli.options import (
    Commands,
    add_command,
    add_model_options,
    add_overwrite_option,
    add_propagation_options,
    say,
)
from siammae.outputs import claim_files, hold_folder

ScoreAt = Literal["native"] | tuple[int, int]
if TYPE_CHECKING:
    from siammae.evaluation import Comparison, EvaluationResult


@dataclass(frozen=True, slots=True, kw_only=True)
class _Benchmark:
    """What differs between the data sets on the command line.

    Attributes:
        help: one line.
        root: what its folder holds.
        split: the usual one.
        lists: where the splits are.
        videos: the option that picks some, also the name of the functions' argument.
        predictions: the files of ready results.
        rules: further arguments of both functions, with their options.
        examples: shown at the end of the help.
    """

    help: str
    root: str
    split: str
    lists: str
    videos: str
    predictions: str
    rules: dict[str, dict[str, Any]]
    examples: str


# What --score-at says: the sizes to score at, in the order of the tables.
_SECOND_SIZE = "-480x880"  # ends the names of its files
_SIZES: dict[str, tuple[ScoreAt, ...]] = {
    "native": ("native",),
    "480x880": ((480, 880),),
    "both": ("native", (480, 880)),
}

_BENCHMARKS = {
    "davis": _Benchmark(
        help="J and F on DAVIS 2016 or 2017",
        root="JPEGImages, Annotations and ImageSets",
        split="val",
        lists="ImageSets/YEAR",
        videos="sequences",
        predictions="SEQUENCE/00000.png",
        rules={
            "year": {"type": int, "default": 2017, "choices": (2016, 2017), "help": "(%(default)s)"},
            "score_at": {
                "default": "native",
                "choices": tuple(_SIZES),
                "help": "size of the scored masks; most work after SiamMAE has 480x880, which raises F (%(default)s)",
            },
        },
        examples="""examples:
  siammae evaluate davis DAVIS --year 2017 --split val
  siammae evaluate davis DAVIS --preset siammae --score-at both
  siammae evaluate davis DAVIS --preset dino --json scores.json -o masks
  siammae evaluate davis DAVIS --model siammae-ti8 --model timm/vit_small_patch16_224.dino --baseline rgb \\
      --preset siammae --preset dino --short-side 240,360,480 --plot sizes.png --workers 4
  torchrun --nproc-per-node 8 -m siammae evaluate davis DAVIS --preset dino    # a GPU for each process
  siammae evaluate davis DAVIS --results masks_of_another_program""",
    ),
    "vip": _Benchmark(
        help="mIoU on VIP, human parts",
        root="Images, Annotations and lists",
        split="val",
        lists="lists, without _videos.txt",
        videos="videos",
        predictions="VIDEO/000000000001.png",
        rules={
            "num_classes": {"type": int, "default": 20, "metavar": "N", "help": "ids are 0 to N - 1 (%(default)s)"},
            "ignore_index": {"type": int, "metavar": "ID", "help": "annotated id that does not count (none)"},
        },
        examples="""examples:
  siammae evaluate vip VIP --short-side 480 --json scores.json -o masks
  siammae evaluate vip VIP --preset siammae
  siammae evaluate vip VIP --results masks_of_another_program""",
    ),
    "jhmdb": _Benchmark(
        help="PCK on JHMDB, human joints; needs siammae[eval]",
        root="Rename_Images, joint_positions and splits",
        split="split1",
        lists="splits, without ACTION_test_",
        videos="clips",
        predictions="ACTION/CLIP.csv",
        rules={
            "count_first_frame": {"action": "store_true", "help": "score the given first frame too, as VFS does"},
            "zero_is_visible": {
                "action": argparse.BooleanOptionalAction,
                "default": True,
                "help": "whether joints predicted at x = 0 count; VFS leaves them out (yes)",
            },
        },
        examples="""examples:
  siammae evaluate jhmdb JHMDB --preset siammae --json scores.json -o joints
  siammae evaluate jhmdb JHMDB --results joints_of_another_program
The CSVs have the form that siammae track writes.""",
    ),
}


def add_parser(commands: Commands) -> None:
    """Add the command and its data sets."""
    parser = add_command(commands, "evaluate", run, "score features on a public benchmark")
    datasets = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    for name, benchmark in _BENCHMARKS.items():
        _add_benchmark(add_command(datasets, name, run, benchmark.help, epilog=benchmark.examples), benchmark)


def _add_benchmark(parser: argparse.ArgumentParser, benchmark: _Benchmark) -> None:
    parser.add_argument("root", metavar="ROOT", help=f"folder with {benchmark.root}")
    for name, options in benchmark.rules.items():
        parser.add_argument("--" + name.replace("_", "-"), **options)
    parser.add_argument(
        "--split", default=benchmark.split, metavar="NAME", help=f"list in {benchmark.lists} (%(default)s)"
    )
    parser.add_argument("--" + benchmark.videos, nargs="+", metavar="NAME", help="only these of the split")
    parser.add_argument(
        "--results", metavar="DIR", help=f"score ready results DIR/{benchmark.predictions} instead of a model"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that share the videos (1)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    group = parser.add_argument_group("comparison", "several models, presets and sizes make one table")
    group.add_argument(
        "--baseline",
        action="append",
        default=[],
        choices=("rgb", "hog", "random"),
        help="beside each model: plain RGB patches of its patch size, histograms of oriented gradients in cells of "
        "that size, or its network with random weights; may be repeated",
    )
    group.add_argument(
        "--same-input",
        action="store_true",
        help="with --short-side: presets give up their own way of resizing and normalising frames, so that all share "
        "features and the table shows the rules of propagation alone",
    )
    group = parser.add_argument_group("output")
    add_overwrite_option(group)
    group.add_argument("-o", "--output", metavar="DIR", help="keep the results; an interrupted run goes on from them")
    group.add_argument("--json", metavar="FILE", help="write the scores, with all settings")
    group.add_argument("--markdown", metavar="FILE", help="write the table as Markdown")
    group.add_argument("--plot", metavar="FILE", help="draw scores against input size (PNG); needs siammae[plot]")
    add_model_options(parser, several=True)
    add_propagation_options(parser, several=True)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.distributed import is_main_process
    from siammae.evaluation.plot import require_matplotlib

    if args.plot:
        require_matplotlib()  # now, and not after an hour of scoring
    with _outputs(args) if is_main_process() else nullcontext():
        return _evaluate(args)


@contextmanager
def _outputs(args: argparse.Namespace) -> Iterator[None]:
    """Hold all that the options name for writing."""
    endings = ("", _SECOND_SIZE) if getattr(args, "score_at", "") == "both" else ("",)
    files = [_with_ending(name, ending) for name in (args.json, args.markdown) if name for ending in endings]
    inputs = (args.root, args.results, *(args.model or ()))
    with claim_files(*files, args.plot, inputs=inputs, overwrite=args.overwrite), ExitStack() as held:
        if args.output is not None:
            held.enter_context(hold_folder(args.output, inputs=inputs))
        yield


def _evaluate(args: argparse.Namespace) -> int:
    """Score, print and write."""
    from siammae.distributed import is_main_process
    from siammae.evaluation.comparison import compare_entries, make_benchmark

    names = ("split", _BENCHMARKS[args.dataset].videos, *_BENCHMARKS[args.dataset].rules)
    rules = {name: getattr(args, name) for name in names}
    if "score_at" in rules:
        rules["score_at"] = _SIZES[rules["score_at"]]
    benchmark = make_benchmark(args.dataset, args.root, **rules)
    how = {"workers": args.workers, "progress": not args.quiet and is_main_process()}
    if args.results:
        from siammae.evaluation.scoring import Ready, evaluate

        results = evaluate(benchmark, [Ready(Path(args.results))], **how)[0]
        return _show(args, results) if is_main_process() else 0
    comparison = compare_entries(
        benchmark,
        find_entries(args),
        short_sides=args.short_side,
        same_input=args.same_input,
        output_dir=args.output,
        overwrite=args.overwrite,
        kernels=args.kernels,
        **how,
    )
    return _show(args, list(comparison.results), comparison) if is_main_process() else 0


def _show(args: argparse.Namespace, results: list[EvaluationResult], comparison: Comparison | None = None) -> int:
    """Print tables and write files: of the one row, or of the comparison."""
    if comparison is not None and len(results) > len({result.scored_at for result in results}):
        say(comparison.table())
        written = _write(args, comparison.save, comparison.markdown())
    else:
        say("\n\n".join(result.table() for result in results))
        if comparison is not None and results[0].details["changed_input"]:
            say(f"frames enter at {_pixels(results[0])}, not as these rules have it")
        written = [path for result in results for path in _write_one(args, result, len(results) > 1)]
    if args.plot and comparison is not None:
        comparison.plot(args.plot)
        written.append(args.plot)
    for path in written:
        say(f"scores written to {path}")
    return 0


def _pixels(result: EvaluationResult) -> str:
    return ", ".join(f"{height}x{width}" for height, width in result.details["inputs"])


def _write_one(args: argparse.Namespace, result: EvaluationResult, several: bool) -> list[str]:
    """Write the files of one result; those of a second size stand beside the first one's."""
    return _write(args, result.save, result.markdown(), f"-{result.scored_at}" if several and result.scored_at else "")


def _with_ending(name: str, ending: str) -> Path:
    return Path(name).with_stem(Path(name).stem + ending)


def _write(args: argparse.Namespace, save: Callable[[Path], None], markdown: str, ending: str = "") -> list[str]:
    from siammae.evaluation.results import write_text

    written = []
    for name, write in ((args.json, save), (args.markdown, lambda path: write_text(path, markdown))):
        if name:
            path = _with_ending(name, ending)
            write(path)
            written.append(str(path))
    return written
