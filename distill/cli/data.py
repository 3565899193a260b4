"""`distill data`: captions for pictures that have none."""

import argparse
from pathlib import Path

from distill.cli.parsers import Commands, add_command, positive

HELP = """\
examples:
  distill data caption photos --model models/blip --granularity short --to photos_short
  distill data caption photos --model models/blip --granularity short --in-place
  distill data caption photos_short --model models/smolvlm --granularity detailed --prompt tipsv2 --to photos_captioned
  distill data caption photos --model models/smolvlm --granularity detailed --prompt "Describe it: {image}" --in-place

Pictures that have a caption are skipped: a captioning that was stopped goes on when the same command is given again."""


def add(commands: Commands) -> None:
    parser = add_command(commands, "data", "make captions for pictures that have none", HELP)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    summary = "write captions of one granularity with a captioner of transformers (extra: hf)"
    action = add_command(actions, "caption", summary, HELP, run=caption)
    action.add_argument("pictures", type=Path, metavar="PICTURES", help="a folder of pictures, or of parquet files")
    about = "a captioner that transformers' save_pretrained wrote; nothing is downloaded"
    action.add_argument("--model", type=Path, required=True, metavar="FOLDER", help=about)
    about = "the new column, as data.dataset.columns calls it"
    action.add_argument("--granularity", choices=("short", "detailed"), required=True, help=about)
    place = action.add_mutually_exclusive_group(required=True)
    place.add_argument("--to", type=Path, metavar="FOLDER", help="write parquet files with pictures and captions")
    place.add_argument("--in-place", action="store_true", help="write a metadata.jsonl into the folder of pictures")
    about = "a text with {image}, {alt}, {short}, {detailed} in it, or tipsv2 (default: none)"
    action.add_argument("--prompt", default="", metavar="TEXT", help=about)
    action.add_argument(
        "--image", default="image", metavar="COLUMN", help="of the pictures in parquet (default: image)"
    )
    for kind in ("alt", "short", "detailed"):
        about = f"of the captions that {{{kind}}} quotes (default: {kind})"
        action.add_argument(f"--{kind}", metavar="COLUMN", help=about)
    action.add_argument("--batch-size", type=positive, default=8, metavar="N", help="pictures at a time (default: 8)")
    action.add_argument("--max-tokens", type=positive, default=64, metavar="N", help="of a caption (default: 64)")


def caption(options: argparse.Namespace) -> int:
    from distill.captioning.command import caption as carry_out

    return carry_out(options)
