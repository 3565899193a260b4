"""The `distill` command. Recipes are checked before anything heavy, such as torch, is imported."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args, get_type_hints

from distill import __version__
from distill.config import Evaluate, list_recipes, load_recipe, recipe_text

STORE = Path("runs/study")
TASKS: tuple[str, ...] = get_args(get_args(get_type_hints(Evaluate)["tasks"])[0])

TOP = """\
Distillation and pretraining of image and image-text encoders: two corners of one grid, one trainer.

start here:
  distill recipes list                      what there is to train
  distill train smoke                       twenty steps, to see that everything works
  distill study run first --quick           a small study of iBOT against iBOT++
"""

BOTTOM = """\
`distill COMMAND --help` has examples. After an error, DISTILL_TRACEBACK=1 shows where in the code it arose."""

TRAIN = """\
examples:
  distill train smoke
  distill train ibotpp seed=1 optim.steps=3000
  distill train ibotpp 'evaluate.tasks=[knn, retrieval]' student.image.extra.drop_path_rate=0.1
  distill train vanilla teacher.checkpoint=runs/ibot-seed0
  distill train my/recipe.yaml run.folder=elsewhere
  accelerate launch --config_file recipes/launch/gpu_8.yaml -m distill train ibotpp

A run that was interrupted goes on where it stopped when the same command is given again.
`distill recipes show RECIPE` prints every setting and its value."""

STUDY = """\
examples:
  distill study list                        the studies that come with distill
  distill study plan bridge                 cells, order, and an estimate of time and disk
  distill study run first --quick           a small one, in minutes
  distill study run bridge --seeds 0-4 --workers 2
  distill study run bridge --scale gpu --cell ibot --cell ibotpp
  distill study run bridge --on slurm --slurm partition=gpu --slurm timeout_min=600
  distill study status bridge
  distill study report bridge
  distill study pack bridge --into small    results without checkpoints, to go on elsewhere
  distill study promote bridge --to my_recipe.yaml

A study that was stopped or killed goes on when the same command is given again; several processes may work on one."""

TEACHERS = """\
examples:
  distill teachers                          the families of encoders there are, and what each gives
  distill teachers inspect distill:runs/ibotpp-seed0
  distill teachers inspect transformers:models/dinov2-small
  distill teachers inspect timm:deit_tiny_patch16_224 --weights model.safetensors
  distill teachers inspect timm:convnext_tiny --weights random"""

MAPS = ("pca", "segmentation", "heat", "similarity", "parts", "depth", "normals")
"""The names of `distill.show.views.VIEWS`, which is not imported for a usage message."""

AGREEMENT = "agreement"
EVAL = f"""\
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

SHOW = """\
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

DEMO = """\
examples:
  distill demo runs/ibotpp-seed0
  distill demo runs/vanilla-seed0 side=teacher runs/vanilla-seed0         teacher and student side by side
  distill demo open_clip:models/siglip2 --images photos --geometry nyuv2
  distill demo timm:deit_tiny_patch16_224 weights=deit.safetensors --images photos --image-size 448
  distill demo runs/ibotpp-seed0 --host 0.0.0.0 --port 8000               open to other machines, without a password

side=student|teacher|untrained, weights=FILE and title=TEXT are said of the model before them. Without --images the
examples are held-out scenes of the first run's world. Probes of depth and normals are fitted at the start: on what
--geometry names, or else on scenes where a run has learnt from them."""

CACHE = """\
examples:
  distill cache plan vanilla teacher.checkpoint=runs/ibot-seed0 data.scenes.num_train=20000
  distill cache write vanilla teacher.checkpoint=runs/ibot-seed0 data.scenes.num_train=20000 --to runs/features
  distill train vanilla teacher.checkpoint=runs/ibot-seed0 data.scenes.num_train=20000 teacher.cache=runs/features
  distill cache plan deit_photos data.views.fixed=4 teacher.cache_storage=int8

`train` writes the folder itself where it is not there. A writing that was interrupted goes on when the same command is
given again; several processes may write one folder, and `accelerate launch` does."""

DATA = """\
examples:
  distill data caption photos --model models/blip --granularity short --to photos_short
  distill data caption photos --model models/blip --granularity short --in-place
  distill data caption photos_short --model models/smolvlm --granularity detailed --prompt tipsv2 --to photos_captioned
  distill data caption photos --model models/smolvlm --granularity detailed --prompt "Describe it: {image}" --in-place

Pictures that have a caption are skipped: a captioning that was stopped goes on when the same command is given again."""

PUBLISH = """\
formats: timm, open_clip, transformers, tips (the released .npz layout), onnx; each in a folder of its name. Every one
is loaded back by its own library, without this package, and compared with the student: proof.json has what came out.

examples:
  distill publish runs/ibotpp-seed0 --to published/ibotpp
  distill publish runs/ibotpp-seed0 --to published/small --formats timm,onnx --photos photos
  distill publish runs/vanilla-seed0 --to published/half --dtype fp16
  distill publish runs/ibotpp-seed0 --to published/average --side teacher
  distill publish runs/deit-seed0 --to published/deit --licence apache-2.0 --picture features.png
  distill publish published/ibotpp --push someone/ibotpp-small          what would go to the hub; sends nothing
  distill publish published/ibotpp --push someone/ibotpp-small --upload

The hub's token comes from HF_TOKEN, or from what `hf auth login` left on this machine."""

RECIPES = """\
examples:
  distill recipes list
  distill recipes show ibotpp
  distill recipes show ibotpp optim.steps=3000 > my_recipe.yaml"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    A user's mistake, or a file that cannot be read or written, is one message and 2; Ctrl-C is 130.
    """
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        return options.command(options)
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; keep Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if os.environ.get("DISTILL_TRACEBACK") == "1":
            raise
        print(f"distill: error: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("distill: interrupted", file=sys.stderr)
        return 130


def _sentence(error: ValueError | OSError) -> str:
    """The operating system's errors by their reason and file, such as `No space left on device: sheet.png`."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one command; `command` is the function that carries it out."""
    parser = build_parser()
    if not arguments:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    if list(arguments[:2]) == ["eval", "list"]:
        return build_list_parser().parse_args(arguments[2:])
    options, left = parser.parse_known_args(arguments)
    # argparse gives up on words that follow an option; key=value words may stand anywhere.
    if left and (any(word.startswith("-") for word in left) or "words" not in options):
        parser.error(f"unrecognised: {' '.join(left)}")
    if left:
        options.words += left
    return options


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="distill", description=TOP, epilog=BOTTOM, formatter_class=_Plain)
    parser.add_argument("--version", action="version", version=f"distill {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    settings = "settings that replace the recipe's, such as optim.lr=1e-3; values are YAML"

    command = _command(commands, "train", "train a recipe", TRAIN, run=train)
    command.add_argument("recipe", metavar="RECIPE", help="a name of `distill recipes list`, or a YAML file")
    command.add_argument("words", metavar="key=value", nargs="*", help=settings)

    _add_study(commands, settings)
    _add_teachers(commands)

    _add_cache(commands, settings)
    _add_data(commands)

    command = _command(commands, "eval", "measure an encoder", EVAL, run=evaluate)
    about = "run folder, checkpoint folder, or an encoder as in teacher.model; with --suite any number of them"
    command.add_argument("path", metavar="RUN|CHECKPOINT|FAMILY:NAME", help=about)
    about = "one task, see below, and settings of the evaluation as key=value"
    command.add_argument("words", metavar="TASK|key=value", nargs="*", help=about)
    command.add_argument("--suite", metavar="NAME", help="many tasks in one go: tipsv2, scenes, samples, or a page")
    command.add_argument("--limit", type=_positive, metavar="N", help="a quick look at N pictures of each set")
    command.add_argument("--to", type=Path, metavar="FOLDER", help="with several encoders: where the comparison goes")

    _add_publish(commands)

    _add_show(commands)

    _add_demo(commands)

    command = _command(commands, "recipes", "list the recipes, or show one with every setting", RECIPES)
    actions = command.add_subparsers(title="actions", metavar="ACTION", required=True)
    _command(actions, "list", "names and descriptions", run=show_names)
    action = _command(actions, "show", "the resolved page as YAML", run=show_recipe)
    action.add_argument("recipe", metavar="RECIPE")
    action.add_argument("words", metavar="key=value", nargs="*", help=settings)
    return parser


def build_list_parser() -> argparse.ArgumentParser:
    """`eval list` stands where `eval RUN` has its run, so it has a parser of its own."""
    summary = "List the data sets that evaluation knows, what is measured on them, and which are there."
    parser = argparse.ArgumentParser(prog="distill eval list", description=summary)
    parser.add_argument("names", metavar="NAME", nargs="*", help="show the layout of these, and where they come from")
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="holds the data sets (default: DISTILL_DATA)")
    parser.set_defaults(command=list_data_sets)
    return parser


def _add_study(commands: argparse._SubParsersAction, settings: str) -> None:
    command = _command(commands, "study", "run a study: a grid of recipes, its statistics and report", STUDY)
    actions = command.add_subparsers(title="actions", metavar="ACTION", required=True)
    _command(actions, "list", "the studies that come with distill", run=study("list"))
    about = {
        "plan": "print cells, order, and an estimate of time and disk from a few measured steps",
        "run": "carry out what is not done yet, then write the report",
        "status": "say what became of every run",
        "report": "write the report on what is done so far",
        "pack": "copy the results, without checkpoints, to where they can be reported on or published",
        "work": "carry out one run (what the workers of `run` are started with)",
    }
    for name, summary in about.items():
        action = _command(actions, name, summary, run=study(name))
        action.add_argument("study", metavar="STUDY", help="a name of `distill study list`, or a YAML file")
        action.add_argument("words", metavar="key=value", nargs="*", help=settings)
        action.add_argument("--scale", help="mini, gpu or paper (default: the page's first)")
        action.add_argument("--quick", action="store_true", help="the small version, in minutes; one seed")
        action.add_argument("--seeds", metavar="0,1,2", help="seeds (default: the page's)")
        action.add_argument("--cell", action="append", default=[], metavar="NAME", help="only this cell and its needs")
        action.add_argument("--to", type=Path, default=STORE, metavar="FOLDER", help=f"of all runs (default: {STORE})")
        action.add_argument("--launch", metavar="PAGE", help="train every cell under accelerate with this page")
        if name == "pack":
            action.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="another folder for runs")
        if name == "work":
            action.add_argument("--with-parent", action="store_true", help="end when standard input is closed")
        if name in ("plan", "run"):
            action.add_argument(
                "--workers", type=_positive, metavar="N", help="runs at a time (default: what the machine has)"
            )
        if name == "plan":
            action.add_argument("--no-measure", action="store_true", help="no estimate: measure no steps")
        if name == "run":
            action.add_argument("--on", choices=("local", "slurm"), default="local", help="where the cells run")
            action.add_argument("--slurm", action="append", default=[], metavar="key=value", help="submitit's settings")
    action = _command(actions, "promote", "write a study's winner out as a pretraining recipe", run=study("promote"))
    action.add_argument("study", metavar="STUDY")
    action.add_argument("--scale", help="mini, gpu or paper (default: the page's first)")
    action.add_argument("--results", type=Path, metavar="FOLDER", help=f"of its report (default: in {STORE})")
    action.set_defaults(store=STORE)
    action.add_argument("--to", type=Path, required=True, metavar="PAGE", dest="recipe", help="the page to write")


def _add_teachers(commands: argparse._SubParsersAction) -> None:
    summary = "list the families of encoders that can teach, or look at one of them"
    command = _command(commands, "teachers", summary, TEACHERS, run=inspection("list_families"))
    actions = command.add_subparsers(title="actions (without any: the list)", metavar="ACTION")
    action = _command(actions, "inspect", "load an encoder and look at its features", run=inspection("inspect"))
    action.add_argument("model", metavar="FAMILY:NAME", help="as in teacher.model")
    action.add_argument("--weights", metavar="FILE", help="as in teacher.weights: a file, or random")


def _add_show(commands: argparse._SubParsersAction) -> None:
    summary = "draw what encoders make of pictures on a contact sheet"
    command = _command(commands, "show", summary, SHOW, run=show)
    command.add_argument("what", metavar="WHAT", choices=MAPS, help=f"{', '.join(MAPS)}, see below")
    about = "RUN, CHECKPOINT or FAMILY:NAME, any number of them, and settings of the kind of map"
    command.add_argument("words", metavar="MODEL|key=value", nargs="*", help=about)
    command.add_argument("--images", type=Path, metavar="PLACE", help="a picture, or a folder of pictures")
    command.add_argument("--to", type=Path, required=True, metavar="FILE", help="the sheet: .png, or .pdf with pages")


def _add_demo(commands: argparse._SubParsersAction) -> None:
    summary = "serve a local page that shows what encoders make of a picture (extra: demo)"
    command = _command(commands, "demo", summary, DEMO, run=demo)
    about = "RUN, CHECKPOINT or FAMILY:NAME, any number of them, and what is said of each"
    command.add_argument("words", metavar="MODEL|key=value", nargs="*", help=about)
    command.add_argument("--images", type=Path, metavar="PLACE", help="a picture or a folder of them, as examples")
    about = "a folder, or a name of `distill eval list`: what probes of depth and normals are fitted on"
    command.add_argument("--geometry", metavar="FOLDER", help=about)
    about = "shorter side of what the encoders see (default: their own); larger ones give finer maps"
    command.add_argument("--image-size", type=_positive, metavar="PIXELS", help=about)
    command.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="(default: this machine alone)")
    command.add_argument("--port", type=_positive, metavar="N", help="(default: the first free one from 7860)")
    about = "of an upload (default: 20 MB, 40 million pixels); larger ones are refused unread"
    command.add_argument("--max-megabytes", type=float, default=20.0, metavar="N", help=about)
    command.add_argument("--max-megapixels", type=float, default=40.0, metavar="N", help="as above")


def _add_cache(commands: argparse._SubParsersAction, settings: str) -> None:
    command = _command(commands, "cache", "run a frozen teacher once, and train from what it said", CACHE)
    actions = command.add_subparsers(title="actions", metavar="ACTION", required=True)
    about = {
        "plan": "print the size for every storage, and an estimate of the time; writes nothing",
        "write": "write the features of every fixed view, or what is missing of them",
    }
    for name, summary in about.items():
        action = _command(actions, name, summary, run=cache(name))
        action.add_argument("recipe", metavar="RECIPE", help="a name of `distill recipes list`, or a YAML file")
        action.add_argument("words", metavar="key=value", nargs="*", help=settings)
        if name == "write":
            action.add_argument("--to", type=Path, metavar="FOLDER", help="(default: the recipe's teacher.cache)")


def _add_data(commands: argparse._SubParsersAction) -> None:
    command = _command(commands, "data", "make captions for pictures that have none", DATA)
    actions = command.add_subparsers(title="actions", metavar="ACTION", required=True)
    summary = "write captions of one granularity with a captioner of transformers (extra: hf)"
    action = _command(actions, "caption", summary, DATA, run=caption)
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
    action.add_argument("--batch-size", type=_positive, default=8, metavar="N", help="pictures at a time (default: 8)")
    action.add_argument("--max-tokens", type=_positive, default=64, metavar="N", help="of a caption (default: 64)")


def _add_publish(commands: argparse._SubParsersAction) -> None:
    summary = "write a student for the libraries people use, and send it to the hub"
    command = _command(commands, "publish", summary, PUBLISH, run=publish)
    command.add_argument("run", type=Path, metavar="RUN|FOLDER", help="run or checkpoint folder; or a published one")
    written = command.add_argument_group("writing a folder")
    written.add_argument("--to", type=Path, metavar="FOLDER", help="must not be there yet")
    written.add_argument("--formats", metavar="NAME,NAME", help="(default: all that this student can have)")
    written.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32", help="of weights; onnx is fp32")
    written.add_argument("--side", choices=("student", "teacher"), default="student", help="whose weights")
    written.add_argument("--photos", type=Path, metavar="FOLDER", help="to compare on (default: held-out scenes)")
    size = "transformers only: larger weights are cut into files of this size (default: 5GB)"
    written.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help=size)
    licence = "of the student, as the hub names it, or other:NAME (default: what its teachers' licences ask for)"
    written.add_argument("--licence", metavar="NAME", help=licence)
    written.add_argument("--licence-text", type=Path, metavar="FILE", help="goes along as LICENSE")
    written.add_argument("--picture", type=Path, metavar="PNG", help="of its features, for the card")
    written.add_argument("--page", type=Path, help="the recipe it stands on, where that does not come with distill")
    written.add_argument("--data", action="append", default=[], metavar="OWNER/NAME", help="the hub's name of its data")
    sent = command.add_argument_group("the hub")
    sent.add_argument("--push", metavar="OWNER/NAME", help="say what would go there")
    sent.add_argument("--upload", action="store_true", help="send it")
    sent.add_argument("--public", action="store_true", help="for everybody (default: private)")
    sent.add_argument("--update", action="store_true", help="into a repository that is there already")


def train(options: argparse.Namespace) -> int:
    recipe = load_recipe(options.recipe, options.words)
    from distill.train.loop import train as carry_out

    return carry_out(recipe)


def study(name: str) -> Callable[[argparse.Namespace], int]:
    """One of the study's actions; its module is imported when it is carried out."""

    def carry_out(options: argparse.Namespace) -> int:
        from distill.study.command import ACTIONS

        return ACTIONS[name](options)

    return carry_out


def inspection(name: str) -> Callable[[argparse.Namespace], int]:
    """One of the actions on teachers; their module is imported when it is carried out."""

    def carry_out(options: argparse.Namespace) -> int:
        from distill import inspection

        return {"list_families": inspection.list_families, "inspect": inspection.inspect}[name](options)

    return carry_out


def cache(name: str) -> Callable[[argparse.Namespace], int]:
    """One of the cache's actions; its module is imported when it is carried out."""

    def carry_out(options: argparse.Namespace) -> int:
        from distill.cache.command import ACTIONS

        return ACTIONS[name](options)

    return carry_out


def caption(options: argparse.Namespace) -> int:
    from distill.captioning.command import caption as carry_out

    return carry_out(options)


def publish(options: argparse.Namespace) -> int:
    from distill.publish.command import run

    return run(options)


def show(options: argparse.Namespace) -> int:
    from distill.show.command import show as carry_out

    return carry_out(options.what, options.words, images=options.images, to=options.to)


def demo(options: argparse.Namespace) -> int:
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


def evaluate(options: argparse.Namespace) -> int:
    path = Path(options.path)
    bare = [word for word in options.words if "=" not in word]
    settings = [word for word in options.words if "=" in word]
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
        settings.append(f"evaluate.num_images={options.limit}")
    if not path.exists() and ":" in options.path:
        from distill.eval.of_a_family import evaluate_family

        return evaluate_family(options.path, task, settings)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such run or checkpoint folder, and no FAMILY:NAME")
    from distill.eval.command import evaluate_checkpoint

    return evaluate_checkpoint(path, task, settings)


def list_data_sets(options: argparse.Namespace) -> int:
    from rich.console import Console

    from distill.eval.layouts.listing import show

    show(options.names, options.root, console=Console())
    return 0


def show_names(options: argparse.Namespace) -> int:
    recipes = list_recipes()
    width = max(len(name) for name, _ in recipes)
    for name, description in recipes:
        print(f"{name:<{width}}  {description}")
    return 0


def show_recipe(options: argparse.Namespace) -> int:
    print(recipe_text(load_recipe(options.recipe, options.words)), end="")
    return 0


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of examples."""


def _command(
    commands: argparse._SubParsersAction,
    name: str,
    summary: str,
    examples: str = "",
    *,
    run: Callable[[argparse.Namespace], int] | None = None,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=examples, formatter_class=_Plain
    )
    if run is not None:
        parser.set_defaults(command=run)
    return parser
