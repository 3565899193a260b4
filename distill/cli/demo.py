"""`distill demo`: a local page that shows what encoders make of a picture."""

import argparse
from pathlib import Path

from distill.cli.parsers import Commands, add_command, check_encoders, positive

HELP = """\
examples:
  distill demo runs/ibotpp-seed0
  distill demo runs/vanilla-seed0 side=teacher runs/vanilla-seed0         teacher and student side by side
  distill demo open_clip:models/siglip2 --images photos --geometry nyuv2
  distill demo timm:deit_tiny_patch16_224 weights=deit.safetensors --images photos --image-size 448
  distill demo runs/ibotpp-seed0 --host 0.0.0.0 --port 8000               open to other machines, without a password

side=student|teacher|untrained, weights=FILE and title=TEXT are said of the model before them. Without --images the
examples are held-out scenes of the first run's world. Probes of depth and normals are fitted at the start: on what
--geometry names, or else on scenes where a run has learnt from them."""


def add(commands: Commands) -> None:
    summary = "serve a local page that shows what encoders make of a picture (extra: demo)"
    parser = add_command(commands, "demo", summary, HELP, run=demo)
    about = "RUN, CHECKPOINT or FAMILY:NAME, any number of them, and what is said of each"
    parser.add_argument("words", metavar="MODEL|key=value", nargs="*", default=[], help=about)
    parser.add_argument("--images", type=Path, metavar="PLACE", help="a picture or a folder of them, as examples")
    about = "a folder, or a name of `distill eval list`: what probes of depth and normals are fitted on"
    parser.add_argument("--geometry", metavar="FOLDER", help=about)
    about = "shorter side of what the encoders see (default: their own); larger ones give finer maps"
    parser.add_argument("--image-size", type=positive, metavar="PIXELS", help=about)
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="(default: this machine alone)")
    parser.add_argument("--port", type=positive, metavar="N", help="(default: the first free one from 7860)")
    about = "of an upload (default: 20 MB, 40 million pixels); larger ones are refused unread"
    parser.add_argument("--max-megabytes", type=float, default=20.0, metavar="N", help=about)
    parser.add_argument("--max-megapixels", type=float, default=40.0, metavar="N", help="as above")


def demo(options: argparse.Namespace) -> int:
    check_encoders(options.words)
    from distill.demo.command import demo as carry_out
    from distill.demo.limits import Limits

    return carry_out(
        options.words,
        images=options.images,
        geometry=options.geometry,
        image_size=options.image_size,
        host=options.host,
        port=options.port,
        limits=Limits(max_megabytes=options.max_megabytes, max_megapixels=options.max_megapixels),
    )
