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
from distill.config import Recipe, load_recipe
from distill.exit_codes import FINISHED
from distill.train.loop import build_accelerator

PLANNED = "teacher_cache"
"""Stands in for the folder where only the cost is asked for."""


def plan(options: argparse.Namespace) -> int:
    """Print bytes for every storage, and seconds from a few batches. Writes nothing."""
    recipe = load_recipe(options.recipe, [f"teacher.cache={PLANNED}", *options.words])
    accelerator = build_accelerator(recipe)
    writer = Writer(recipe, device=accelerator.device, precision=accelerator.mixed_precision)
    index, estimate = writer.index, writer.estimate()
    layout, looked_at = index.layout, recipe.optim.steps * recipe.data.batch_size
    print(f"{recipe.name}: {index.total:,} views ({index.num_samples:,} samples, {index.num_views} of each)")
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
    """Write the cache, or what is missing of it. Under `accelerate launch` every process writes a part."""
    recipe = _with_folder(options)
    accelerator = build_accelerator(recipe)
    device, precision = accelerator.device, accelerator.mixed_precision
    folder = Path(recipe.teacher.cache)
    ensure_cache(recipe, device=device, precision=precision, say=lambda text: print(text, file=sys.stderr))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        print(f"{folder} is finished: train with teacher.cache={folder}")
    return FINISHED


def _with_folder(options: argparse.Namespace) -> Recipe:
    """The recipe with `--to` as its cache; the page's own where that is not given. Raises ValueError without either."""
    words = [*options.words, *([f"teacher.cache={options.to}"] if options.to else [])]
    recipe = load_recipe(options.recipe, words)
    if recipe.teacher.cache is None:
        raise ValueError("where to? Give --to FOLDER, or set teacher.cache=FOLDER")
    return recipe


ACTIONS = {"plan": plan, "write": write}
