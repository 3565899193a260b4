"""`distill publish`: a student for the libraries people use."""

import argparse
from pathlib import Path

from distill.cli.parsers import Commands, add_command

HELP = """\
formats: timm, open_clip, transformers, tips (the released .npz layout), onnx; each in a folder of its name. Every one
is loaded back by its own library, without this package, and compared with the student: proof.json has what came out.

examples:
  distill publish runs/ibotpp-seed0 --to published/ibotpp
  distill publish runs/ibotpp-seed0 --to published/small --formats timm,onnx --photos photos
  distill publish runs/vanilla-seed0 --to published/half --dtype fp16
  distill publish runs/ibotpp-seed0 --to published/average --side teacher
  distill publish runs/deit-seed0 --to published/deit --licence apache-2.0 --photos photos --no-picture
  distill publish published/ibotpp --push someone/ibotpp-small          what would go to the hub; sends nothing
  distill publish published/ibotpp --push someone/ibotpp-small --upload

The hub's token comes from HF_TOKEN, or from what `hf auth login` left on this machine."""


def add(commands: Commands) -> None:
    summary = "write a student for the libraries people use, and send it to the hub"
    parser = add_command(commands, "publish", summary, HELP, run=publish)
    parser.add_argument("run", type=Path, metavar="RUN|FOLDER", help="run or checkpoint folder; or a published one")
    written = parser.add_argument_group("writing a folder")
    written.add_argument("--to", type=Path, metavar="FOLDER", help="must not be there yet")
    written.add_argument("--formats", metavar="NAME,NAME", help="(default: all that this student can have)")
    written.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="of weights (default: fp32); onnx is fp32")
    written.add_argument("--side", choices=("student", "teacher"), help="whose weights (default: student)")
    written.add_argument("--photos", type=Path, metavar="FOLDER", help="to compare on (default: held-out scenes)")
    size = "of models of transformers: larger weights are cut into files of it (default: 5GB)"
    written.add_argument("--max-shard-size", metavar="SIZE", help=size)
    licence = "of the student, as the hub names it, or other:NAME (default: what its teachers' licences ask for)"
    written.add_argument("--licence", metavar="NAME", help=licence)
    written.add_argument("--licence-text", type=Path, metavar="FILE", help="goes along as LICENSE")
    drawn = "of its features, for the card (default: one is drawn, of the photos or of held-out scenes)"
    written.add_argument("--picture", type=Path, metavar="PNG", help=drawn)
    written.add_argument("--no-picture", action="store_true", help="a card without one")
    written.add_argument("--page", type=Path, help="the recipe it stands on, where that does not come with distill")
    written.add_argument("--data", action="append", default=[], metavar="OWNER/NAME", help="the hub's name of its data")
    sent = parser.add_argument_group("the hub")
    sent.add_argument("--push", metavar="OWNER/NAME", help="say what would go there")
    sent.add_argument("--upload", action="store_true", help="send it")
    sent.add_argument("--public", action="store_true", help="for everybody (default: private)")
    sent.add_argument("--update", action="store_true", help="into a repository that is there already")


def publish(options: argparse.Namespace) -> int:
    if not options.run.exists():
        raise FileNotFoundError(f"{options.run}: no such run, checkpoint or published folder")
    from distill.publish.command import run

    return run(options)
