"""`distill eval FAMILY:NAME TASK key=value`: any encoder of `distill teachers`, measured as a trained one is."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from distill.compose import load_pretrained
from distill.config import TASKS_WITH_TEXT, Recipe, recipe_from_words
from distill.encoders.dual import DualEncoder
from distill.eval import TASKS, evaluation_data
from distill.eval.command import evaluation_words, save_result, show_result
from distill.eval.in_training import run_task
from distill.eval.registry import check_read
from distill.eval.sets import check_words

FOLDER = Path("runs/eval")
"""Of results, below the working directory: such an encoder has no run folder."""

OWN_WORDS = ("weights", "image_size")
"""What is said of the encoder itself: a file or `random`, and the side of the pictures it is shown, pixels."""


def evaluate_family(model: str, task: str, overrides: Sequence[str] = ()) -> int:
    """Measure, print a table and write `runs/eval/MODEL/TASK.json`. Returns 0.

    Overrides: `weights=FILE`, `image_size=PIXELS` (its own size when not given), `run.device=cpu`, and the settings of
    `evaluate`. Without a folder or a data set the pictures are scenes. Raises ValueError for what cannot be loaded, for
    a task that needs a text tower the encoder lacks, and for a task that needs a run.
    """
    if task not in TASKS:
        raise ValueError(f"{task} is measured of runs, and {model} is none; the tasks are {', '.join(TASKS)}")
    of_encoder = dict(word.split("=", 1) for word in overrides if word.partition("=")[0] in OWN_WORDS and "=" in word)
    words = evaluation_words([word for word in overrides if word.partition("=")[0] not in OWN_WORDS])
    source = load_pretrained(model, of_encoder.get("weights"))
    if source.text is None and task in TASKS_WITH_TEXT:
        raise ValueError(f"{model} has no text tower, and {task} needs one")
    size = of_encoder.get("image_size", str(source.image_size))
    recipe: Recipe = recipe_from_words([f"data.image_size={size}", f"evaluate.tasks=[{task}]", *words])
    check_read(task, words)
    check_words(task, words, recipe.evaluate)
    try:
        source.image.grid(recipe.data.image_size, recipe.data.image_size)
    except ValueError as problem:
        raise ValueError(f"image_size={size}: {problem}") from problem
    limited = any(word.startswith("evaluate.num_images=") for word in words)
    data = evaluation_data(recipe, recipe.evaluate.num_images if limited else None)
    device = "cuda" if torch.cuda.is_available() and recipe.run.device == "auto" else "cpu"
    encoder = DualEncoder(source.image, source.text).eval().to(device)
    result = run_task(encoder, task, data=data, recipe=recipe)
    who = {"model": model, "weights": source.source, "licence": source.licence, "image_size": recipe.data.image_size}
    file = FOLDER / re.sub(r"[^A-Za-z0-9.]+", "-", model).strip("-") / f"{task}.json"
    asked = replace(recipe.evaluate, tasks=(task,))
    save_result(result, file, task=task, who=who, asked=asked, data=data)
    show_result(result, file, title=f"{task} of {model}, {result.num_images} pictures")
    return 0
