"""`distill eval`: one task or a suite of them; and `distill eval list`, the data sets that it knows."""

import argparse
from pathlib import Path
from typing import get_args, get_type_hints

from distill.cli.parsers import Commands, add_command, check_encoders, positive
from distill.config import Evaluate

TASKS: tuple[str, ...] = get_args(get_args(get_type_hints(Evaluate)["tasks"])[0])
AGREEMENT = "agreement"
HELP = f"""\
tasks: {", ".join(TASKS)}; {AGREEMENT}: how far the student sees what its teacher sees

examples:
  distill eval runs/ibotpp-seed0 zero_shot_segmentation
  distill eval runs/ibotpp-seed0 knn evaluate.classes=flowers
  distill eval runs/ibotpp-seed0 zero_shot_classification classes=flowers templates=imagenet80
  distill eval runs/ibotpp-seed0 compositional_pairs pairs=sugar-crepe/data
  distill eval runs/ibotpp-seed0 health
  distill eval runs/ibotpp-seed0 alignment hidden_ratio=0.5
  distill eval runs/vanilla-seed0 agreement
  distill eval runs/vanilla-seed0 agreement side=untrained
  distill eval open_clip:models/siglip2 zero_shot_segmentation evaluate.segmentation=ade20k
  distill eval timm:vit_base_patch16_dinov3 knn weights=dinov3.safetensors evaluate.classes=imagenet
  distill eval tips:models/tipsv2-b14 depth probe=dpt decoder=tipsv2_b14_depth_dpt.npz geometry=nyuv2
  distill eval runs/ibotpp-seed0 --suite scenes          all tasks on scenes, in one page
  distill eval runs/ibot-seed0 runs/ibotpp-seed0 --suite scenes     side by side, paired by picture
  distill eval runs/ibotpp-seed0 --suite tipsv2 --limit 100         what is there of the paper's data sets, a quick look
  distill eval list                         data sets: what is measured on them, and which are there
  distill eval list ade20k                  its layout, and where it comes from
  DISTILL_DATA=/data distill eval runs/ibotpp-seed0 zero_shot_segmentation evaluate.segmentation=ade20k
  distill eval runs/ibotpp-seed0 zero_shot_segmentation segmentation=ade20k root=/data      # or data.root=/data
  distill eval runs/ibotpp-seed0 knn classes=hf:data/cifar10 columns.image=img      # tables on disk, by column map"""


def add(commands: Commands) -> None:
    parser = add_command(commands, "eval", "measure an encoder", HELP, run=evaluate)
    about = "run folder, checkpoint folder, or an encoder as in teacher.model; with --suite any number of them"
    parser.add_argument("path", metavar="RUN|CHECKPOINT|FAMILY:NAME", help=about)
    about = "one task, see below, and settings of the evaluation as key=value"
    parser.add_argument("words", metavar="TASK|key=value", nargs="*", default=[], help=about)
    parser.add_argument("--suite", metavar="NAME", help="many tasks in one go: tipsv2, scenes, samples, or a page")
    parser.add_argument("--limit", type=positive, metavar="N", help="a quick look at N pictures of each set")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="with several encoders: where the comparison goes")


def build_list_parser() -> argparse.ArgumentParser:
    """`eval list` stands where `eval RUN` has its run, so it has a parser of its own."""
    summary = "List the data sets that evaluation knows, what is measured on them, and which are there."
    parser = argparse.ArgumentParser(prog="distill eval list", description=summary)
    parser.add_argument(
        "names", metavar="NAME", nargs="*", default=[], help="show the layout of these, and where they come from"
    )
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="holds the data sets (default: DISTILL_DATA)")
    parser.set_defaults(command=list_data_sets)
    return parser


def evaluate(options: argparse.Namespace) -> int:
    path = Path(options.path)
    bare = [word for word in options.words if "=" not in word]
    settings = [word for word in options.words if "=" in word]
    check_encoders([options.path, *(bare if options.suite is not None else ())])
    if options.suite is not None:
        from distill.eval.suite.command import evaluate_suite

        return evaluate_suite([options.path, *bare], options.suite, settings, limit=options.limit, to=options.to)
    if options.to is not None:
        raise ValueError("--to is where a comparison of several encoders goes, which --suite makes")
    if len(bare) != 1 or bare[0] not in (*TASKS, AGREEMENT):
        said = "no task is named" if not bare else f"{' '.join(bare)} is no task"
        raise ValueError(f"{said}; name one of {', '.join((*TASKS, AGREEMENT))}, or a --suite")
    task = bare[0]
    if options.limit is not None:
        if any(word.partition("=")[0].removeprefix("evaluate.") == "num_images" for word in settings):
            raise ValueError("--limit and num_images say the same thing twice; give one of them")
        settings.append(f"evaluate.num_images={options.limit}")
    if not path.exists() and ":" in options.path:
        from distill.eval.of_a_family import evaluate_family

        return evaluate_family(options.path, task, settings)
    from distill.eval.command import evaluate_checkpoint

    return evaluate_checkpoint(path, task, settings)


def list_data_sets(options: argparse.Namespace) -> int:
    from rich.console import Console

    from distill.catalogue.listing import show

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # the reader has seen enough, which is no failure

    show(options.names, options.root, console=Piped())
    return 0
