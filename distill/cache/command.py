"""`distill cache plan | write`: what a teacher cache of a recipe will cost, and the writing of it."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from distill.cache.estimate import duration, folder_bytes, size, with_storage
from distill.cache.storage import STORAGES
from distill.cache.write import Writer, ensure_cache
from distill.compose import who
from distill.config import Recipe, by_teacher, cache_places, load_recipe, members_named
from distill.exit_codes import FINISHED
from distill.train.loop import build_accelerator

PLANNED = "teacher_cache"
"""Stands in for the folder where only the cost is asked for."""


def plan(options: argparse.Namespace) -> int:
    """Print bytes for every storage, and seconds from a few batches, for every teacher. Writes nothing."""
    recipe = load_recipe(options.recipe, [*_folder_words(options, Path(PLANNED)), *options.words])
    recipes = by_teacher(recipe)
    accelerator = build_accelerator(recipe)
    for name, alone in recipes.items():
        writer = Writer(alone, device=accelerator.device, precision=accelerator.mixed_precision)
        index, estimate = writer.index, writer.estimate()
        layout, looked_at = index.layout, recipe.optim.steps * recipe.data.batch_size
        title = f"{recipe.name}, {who(name)}" if name else recipe.name
        print(f"{title}: {index.total:,} views ({index.num_samples:,} samples, {index.num_views} of each)")
        rows, columns = layout.grid
        print(f"a view: {rows} x {columns} patches and {layout.num_cls} CLS tokens of width {layout.width}")
        table = Table("cache_storage", "cache_components", "bytes a view", "folder")
        for components in sorted({0, layout.components}):
            for storage in STORAGES:
                other = with_storage(layout, storage=storage, components=components)
                whole = folder_bytes(replace(index, layout=other))
                table.add_row(storage, str(components or "all"), f"{other.bytes_per_view():,}", size(whole))
        Console(width=100).print(table)
        print(f"writing: about {duration(estimate.seconds)} for one process on {accelerator.device}")
        print(f"the training looks at {looked_at:,} views, {looked_at / index.total:.1f} times the number in the cache")
        if looked_at < index.total:
            print("so by itself it were cheaper without a cache, or with fewer samples or views")
    return FINISHED


def write(options: argparse.Namespace) -> int:
    """Write the caches, or what is missing of them. Under `accelerate launch` every process writes a part."""
    recipe = _to_be_written(options)
    accelerator = build_accelerator(recipe)
    device, precision = accelerator.device, accelerator.mixed_precision
    for name, alone in by_teacher(recipe).items():
        folder = alone.teacher.cache
        if folder is None:
            continue
        ensure_cache(alone, device=device, precision=precision, say=lambda text: print(text, file=sys.stderr))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            setting = f"teacher.members.{name}.cache" if name else "teacher.cache"
            print(f"{folder} is finished: train with {setting}={folder}")
    return FINISHED


def _to_be_written(options: argparse.Namespace) -> Recipe:
    """The recipe with its own caches, or all of them below `--to`. Raises ValueError without either."""
    words = [*options.words, *(_folder_words(options, options.to) if options.to else [])]
    recipe = load_recipe(options.recipe, words)
    if not any(alone.teacher.cache for alone in by_teacher(recipe).values()):
        places = " or ".join(f"{place}=FOLDER" for place in cache_places(recipe)[recipe.teacher.kind == "ensemble" :])
        raise ValueError(f"where to? Give --to FOLDER, or set {places}")
    return recipe


def _folder_words(options: argparse.Namespace, folder: Path) -> list[str]:
    """A cache in `folder`, or for every member of an ensemble in a folder of its name in there.

    Words, because a recipe that says how its cache is stored is none without one.
    """
    members = members_named(options.recipe, options.words)
    if not members:
        return [f"teacher.cache={folder}"]
    return [f"teacher.members.{name}.cache={folder / name}" for name in members]


ACTIONS = {"plan": plan, "write": write}
