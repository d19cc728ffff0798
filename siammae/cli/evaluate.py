"""``siammae evaluate``: scores on public benchmarks."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

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

_EXAMPLES = """examples:
  siammae evaluate davis DAVIS --year 2017 --split val
  siammae evaluate davis DAVIS --preset dino --json scores.json -o masks
  siammae evaluate davis DAVIS --results masks_of_another_program"""


def add_parser(commands: Commands) -> None:
    """Add the command and its data sets."""
    parser = add_command(commands, "evaluate", run_davis, "score features on a public benchmark")
    datasets = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    davis = add_command(datasets, "davis", run_davis, "J and F on DAVIS 2016 or 2017", epilog=_EXAMPLES)
    davis.add_argument("root", metavar="ROOT", help="folder with JPEGImages, Annotations and ImageSets")
    davis.add_argument("--year", type=int, default=2017, choices=(2016, 2017), help="(%(default)s)")
    davis.add_argument("--split", default="val", metavar="NAME", help="list in ImageSets/YEAR (%(default)s)")
    davis.add_argument("--sequences", nargs="+", metavar="NAME", help="only these of the split")
    davis.add_argument("--results", metavar="DIR", help="score ready masks DIR/SEQUENCE/00000.png instead of a model")
    davis.add_argument(
        "--baseline",
        choices=("rgb", "random"),
        help="instead of the model: plain RGB patches of its patch size, or its network with random weights",
    )
    davis.add_argument("-o", "--output", metavar="DIR", help="keep the masks; an interrupted run goes on from them")
    davis.add_argument("--json", metavar="FILE", help="write the scores, with all settings")
    davis.add_argument("--quiet", action="store_true", help="no progress bar")
    add_model_options(davis)
    add_propagation_options(davis)


def run_davis(args: argparse.Namespace) -> int:
    """Run ``evaluate davis``."""
    result = _score(args) if args.results else _evaluate(args)
    print(result.table())
    if args.json:
        result.save(args.json)
        print(f"scores written to {args.json}")
    return 0


def _score(args: argparse.Namespace) -> EvaluationResult:
    from siammae.evaluation import score_davis

    return score_davis(
        args.results, args.root, year=args.year, split=args.split, sequences=args.sequences, progress=not args.quiet
    )


def _evaluate(args: argparse.Namespace) -> EvaluationResult:
    from siammae.evaluation import evaluate_davis

    model = load_model(args)
    return evaluate_davis(
        _baseline(args.baseline, model, args.device) if args.baseline else model,
        args.root,
        year=args.year,
        split=args.split,
        sequences=args.sequences,
        config=propagation_config(args, model.propagation),
        output_dir=args.output,
        kernels=args.kernels,
        progress=not args.quiet,
    )


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
