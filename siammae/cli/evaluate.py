"""``siammae evaluate``: scores on public benchmarks."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from siammae.cli.options import (
    Commands,
    add_command,
    add_model_options,
    add_propagation_options,
    load_model,
    pick_device,
    propagation_config,
)

if TYPE_CHECKING:
    from siammae.evaluation import EvaluationResult
    from siammae.features import FeatureExtractor
    from siammae.model import SiamMAE


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


_BENCHMARKS = {
    "davis": _Benchmark(
        help="J and F on DAVIS 2016 or 2017",
        root="JPEGImages, Annotations and ImageSets",
        split="val",
        lists="ImageSets/YEAR",
        videos="sequences",
        predictions="SEQUENCE/00000.png",
        rules={"year": {"type": int, "default": 2017, "choices": (2016, 2017), "help": "(%(default)s)"}},
        examples="""examples:
  siammae evaluate davis DAVIS --year 2017 --split val
  siammae evaluate davis DAVIS --preset dino --json scores.json -o masks
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
    parser.add_argument(
        "--baseline",
        choices=("rgb", "random"),
        help="instead of the model: plain RGB patches of its patch size, or its network with random weights",
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="keep the results; an interrupted run goes on from them")
    parser.add_argument("--json", metavar="FILE", help="write the scores, with all settings")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_model_options(parser)
    add_propagation_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    evaluate, score = _functions(args.dataset)
    names = ("split", _BENCHMARKS[args.dataset].videos, *_BENCHMARKS[args.dataset].rules)
    shared = {name: getattr(args, name) for name in names} | {"progress": not args.quiet}
    if args.results:
        result = score(args.results, args.root, **shared)
    else:
        model = load_model(args)
        result = evaluate(
            _baseline(args.baseline, model, args.device) if args.baseline else model,
            args.root,
            config=propagation_config(args, model.propagation, dataset=args.dataset),
            output_dir=args.output,
            kernels=args.kernels,
            **shared,
        )
    print(result.table())
    if args.json:
        result.save(args.json)
        print(f"scores written to {args.json}")
    return 0


def _functions(dataset: str) -> tuple[Callable[..., EvaluationResult], Callable[..., EvaluationResult]]:
    """Return what evaluates a model on a data set, and what scores ready results."""
    from siammae import evaluation

    functions: dict[str, tuple[Callable[..., EvaluationResult], Callable[..., EvaluationResult]]] = {
        "davis": (evaluation.evaluate_davis, evaluation.score_davis),
        "vip": (evaluation.evaluate_vip, evaluation.score_vip),
        "jhmdb": (evaluation.evaluate_jhmdb, evaluation.score_jhmdb),
    }
    return functions[dataset]


def _baseline(name: str, model: SiamMAE, device: str) -> FeatureExtractor:
    """Make the extractor to compare with: same patch grid, and the rules stay those of the model."""
    import torch

    from siammae.features import PixelExtractor
    from siammae.model import SiamMAE

    if name == "rgb":
        return PixelExtractor(model.patch_size, device=pick_device(device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SiamMAE(model.config).to(model.device, model.dtype).eval()
