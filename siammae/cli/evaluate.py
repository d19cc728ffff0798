"""``siammae evaluate``: scores on public benchmarks."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from siammae.cli.options import (
    Commands,
    add_command,
    add_model_options,
    add_propagation_options,
    load_model,
    pick_device,
    propagation_config,
)

ScoreAt = Literal["native"] | tuple[int, int]

if TYPE_CHECKING:
    from siammae.backbones import TimmExtractor
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


# What --score-at says: the sizes to score at, in the order of the tables.
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
        return _show(args, [score(args.results, args.root, **rules) for rules in _each_size(shared)])
    model = load_model(args)
    shared |= {"config": propagation_config(args, model.propagation, dataset=args.dataset), "kernels": args.kernels}
    extractor = _baseline(args.baseline, model, args.device) if args.baseline else model
    with TemporaryDirectory(prefix="siammae-") as scratch:
        # With two sizes the run for the native one, the last, reads what the other has written: videos are followed
        # once.
        output = args.output or (scratch if shared.get("score_at") == "both" else None)
        runs = reversed(_each_size(shared))
        return _show(args, [evaluate(extractor, args.root, output_dir=output, **rules) for rules in runs][::-1])


def _each_size(rules: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the arguments of one call for each size that is scored."""
    if "score_at" not in rules:
        return [rules]
    return [{**rules, "score_at": size} for size in _SIZES[rules["score_at"]]]


def _show(args: argparse.Namespace, results: list[EvaluationResult]) -> int:
    """Print the tables and write the scores; those of a second size go into a file beside that of ``--json``."""
    print("\n\n".join(result.table() for result in results))
    for result in results if args.json else ():
        path, size = Path(args.json), result.dataset.partition(" at ")[2]
        path = path.with_stem(f"{path.stem}-{size}") if size and len(results) > 1 else path
        result.save(path)
        print(f"scores written to {path}")
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


def _baseline(name: str, model: SiamMAE | TimmExtractor, device: str) -> FeatureExtractor:
    """Make the extractor to compare with: same patch grid, and the rules stay those of the model."""
    import torch

    from siammae.backbones import TimmExtractor
    from siammae.features import PixelExtractor
    from siammae.model import SiamMAE

    if name == "rgb":
        return PixelExtractor(model.patch_size, device=pick_device(device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if isinstance(model, TimmExtractor):
            return TimmExtractor.from_pretrained(model.name, pretrained=False, device=model.device, dtype=model.dtype)
        return SiamMAE(model.config).to(model.device, model.dtype).eval()
