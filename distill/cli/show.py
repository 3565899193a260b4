"""`distill show`: what encoders make of pictures, on a contact sheet."""

import argparse
from pathlib import Path

from distill.cli.parsers import Commands, add_command, check_encoders

MAPS = ("pca", "segmentation", "heat", "similarity", "parts", "depth", "normals")
"""The names of `distill.show.views.VIEWS`, which is not imported for a usage message."""

HELP = """\
pca             patch features in their principal colours          layers=all basis=own|turned|shared colours=lab|rgb
segmentation    zero-shot, by class names                          classes=[cat, dog] templates=tcl mode=slide
heat            how alike patches are to a text                    query="a red circle"
similarity      how alike patches are to the one at a point        point=0.3,0.7 of=each|first
parts           k-means parts of all pictures together             num=6
depth, normals  read out by a probe                                geometry=FOLDER probe=ridge|linear|dpt

examples:
  distill show pca runs/ibot-seed0 runs/ibotpp-seed0 --to features.png
  distill show pca runs/vanilla-seed0 runs/vanilla-seed0 side=untrained --images photos --to features.pdf
  distill show pca timm:deit_tiny_patch16_224 weights=deit.safetensors image_size=672 --images photo.jpg --to fine.png
  distill show segmentation runs/vanilla-seed0 side=teacher runs/vanilla-seed0 --to teacher_and_student.png
  distill show segmentation open_clip:models/siglip2 'classes=[cat, dog, sofa]' --images photos --to sheet.pdf
  distill show heat runs/ibotpp-seed0 'query=[a red circle, dots]' num_pictures=12 --to heat.png
  distill show depth runs/ibotpp-seed0 geometry=nyuv2 --images rooms --to depth.png

side=student|teacher|untrained, weights=FILE and title=TEXT are said of the model before them. Without --images the
pictures are held-out scenes of the first run's world. A larger image_size gives finer maps; width, height (inches) and
dpi make the sheet."""


def add(commands: Commands) -> None:
    summary = "draw what encoders make of pictures on a contact sheet"
    parser = add_command(commands, "show", summary, HELP, run=show)
    parser.add_argument("what", metavar="WHAT", choices=MAPS, help=f"{', '.join(MAPS)}, see below")
    about = "RUN, CHECKPOINT or FAMILY:NAME, any number of them, and settings of the kind of map"
    parser.add_argument("words", metavar="MODEL|key=value", nargs="*", default=[], help=about)
    parser.add_argument("--images", type=Path, metavar="PLACE", help="a picture, or a folder of pictures")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="the sheet: .png, or .pdf with pages")


def show(options: argparse.Namespace) -> int:
    check_encoders(options.words)
    from distill.show.command import show as carry_out

    return carry_out(options.what, options.words, images=options.images, to=options.to)
