"""``siammae upload``: a checkpoint to the Hugging Face Hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from siammae.cli.options import Commands, add_command, say

_NOTES = """The folder must load as it is, and its README.md, the model card, must say the licence. Log in with
`hf auth login` or set HF_TOKEN first; HF_ENDPOINT names another hub. Then anyone can pass the name as --model, or to
from_pretrained.

examples:
  siammae upload run/model you/siammae-mine --license apache-2.0 --dry-run
  siammae upload run/model you/siammae-mine --license apache-2.0 --private"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "upload", run, "send a checkpoint to the Hugging Face Hub", epilog=_NOTES)
    parser.add_argument("folder", metavar="FOLDER", help="of the checkpoint, as pretrain and convert write it")
    parser.add_argument("name", metavar="OWNER/NAME", help="of the repository, which is made if it is missing")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--license", metavar="NAME", help="of the weights, where the card says none")
    parser.add_argument("--dry-run", action="store_true", help="check all, say what would be sent, and send nothing")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from siammae.checkpoints.hub import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, card_for_upload, check_repo_id, upload
    from siammae.network.model import SiamMAE

    check_repo_id(args.name)
    folder = Path(args.folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: a checkpoint is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}.")
    SiamMAE.from_pretrained(folder)
    card = card_for_upload(folder, args.license)
    sizes = {name: (folder / name).stat().st_size for name in (CONFIG_FILE, WEIGHTS_FILE)} | {
        CARD_FILE: len(card.encode())
    }
    for name, size in sizes.items():
        say(f"  {name:18} {size:>13,} bytes")
    if args.dry_run:
        say(f"would go to {args.name}{', private if it is new' if args.private else ''}; nothing was sent")
        return 0
    say(upload(folder, args.name, private=args.private, card=card))
    return 0
