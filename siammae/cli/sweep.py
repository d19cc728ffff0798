"""``siammae sweep``: find rules of propagation on some videos, report them on others."""

from __future__ import annotations

import argparse
from typing import Any

from siammae.cli.inputs import as_assignments, load_model, propagation_config
from siammae.cli.options import (
    Commands,
    add_command,
    add_model_options,
    add_overwrite_option,
    add_propagation_options,
    say,
)
from siammae.outputs import claim_files

_VIDEOS = {"davis": "sequences", "vip": "videos", "jhmdb": "clips"}
_SPLITS = {"davis": "train", "vip": "train", "jhmdb": "split1"}
_GRID = {"top_k": int, "radius": int, "queue_length": int, "temperature": float}
_EXAMPLES = """examples:
  siammae sweep davis DAVIS --try top_k=5,7,10 --try temperature=0.05,0.1,0.2
  siammae sweep davis DAVIS --year 2016 --choose-split train --report-split val --try radius=8,12,20,none
  siammae sweep davis DAVIS --choose-split val --report-split val --choose bear dog --report cows goat --try top_k=5,7
Videos must not be in both lists: rules chosen on the videos they are reported on promise too much."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "sweep", run, "search rules of propagation on some videos, report on others")
    parser.epilog = _EXAMPLES
    parser.add_argument("dataset", choices=tuple(_VIDEOS), metavar="DATASET", help="davis, vip or jhmdb")
    parser.add_argument("root", metavar="ROOT", help="its folder, see siammae evaluate DATASET --help")
    parser.add_argument("--year", type=int, default=2017, choices=(2016, 2017), help="of DAVIS (%(default)s)")
    for kind, split in (("choose", "train; split1 of JHMDB"), ("report", "val; split1 of JHMDB")):
        parser.add_argument(f"--{kind}-split", metavar="NAME", help=f"list of the videos to {kind} on ({split})")
        parser.add_argument(f"--{kind}", nargs="+", metavar="VIDEO", help="only these of it")
    parser.add_argument(
        "--try",
        dest="grid",
        action="append",
        required=True,
        metavar="FIELD=A,B,...",
        help=f"values to try of {', '.join(_GRID)}; all combinations are; may be repeated",
    )
    parser.add_argument(
        "--allow-overlap", action="store_true", help="report on videos that were chosen on, all the same"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that share the videos (1)")
    parser.add_argument("--json", metavar="FILE", help="write all trials")
    add_overwrite_option(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_model_options(parser)
    add_propagation_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.distributed import is_main_process

    grid = dict(_values(text) for text in args.grid)
    with claim_files(
        args.json if is_main_process() else None, inputs=(args.root, args.model), overwrite=args.overwrite
    ):
        return _sweep(args, grid)


def _sweep(args: argparse.Namespace, grid: dict[str, list[Any]]) -> int:
    """Search, print and write."""
    from siammae.distributed import is_main_process
    from siammae.evaluation.sweeping import sweep

    model = load_model(args)
    found = sweep(
        args.dataset,
        args.root,
        model,
        grid,
        choose=_part(args, args.choose_split or _SPLITS[args.dataset], args.choose),
        report=_part(args, args.report_split or ("split1" if args.dataset == "jhmdb" else "val"), args.report),
        config=propagation_config(args, model, dataset=args.dataset),
        allow_overlap=args.allow_overlap,
        kernels=args.kernels,
        workers=args.workers,
        progress=not args.quiet and is_main_process(),
    )
    if not is_main_process():
        return 0
    say(found.table())
    best = dict(found.changes[0])
    say("\nbest rules, in Python and on the command line:")
    say(f"  config.replace({', '.join(f'{name}={value!r}' for name, value in best.items())})")
    say("  " + " ".join(f"--set {text}" for text in as_assignments(best)))
    if args.json:
        found.save(args.json)
        say(f"all trials written to {args.json}")
    return 0


def _values(text: str) -> tuple[str, list[Any]]:
    """Read ``top_k=5,7``.

    Raises:
        ValueError: it has another form, or the field cannot be tried.
    """
    name, equals, values = text.partition("=")
    if not equals or name not in _GRID:
        raise ValueError(f"--try {text}: it must be FIELD=A,B,... with a field out of {', '.join(_GRID)}.")
    try:
        return name, [None if (name, part) == ("radius", "none") else _GRID[name](part) for part in values.split(",")]
    except ValueError:
        raise ValueError(f"--try {text}: the values must be numbers, or none for a radius without limit.") from None


def _part(args: argparse.Namespace, split: str, videos: list[str] | None) -> dict[str, Any]:
    """Return the data set's arguments for one of the two lists."""
    part: dict[str, Any] = {"split": split, _VIDEOS[args.dataset]: videos}
    return part | ({"year": args.year} if args.dataset == "davis" else {})
