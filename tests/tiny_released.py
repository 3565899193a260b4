"""Encoders of every family as their makers release them, tiny and with random weights, written by the tests."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from test_family_hf import MEAN, STD
from test_family_hf import write as write_folder
from test_family_open_clip import MEAN as CLIP_MEAN
from test_family_open_clip import STD as CLIP_STD
from test_family_open_clip import write as write_clip
from test_family_tips import write_pair, write_tokenizer
from tiny_runs import trained

from distill.encoders.timm_names import timm_statistics


@dataclass(frozen=True)
class Released:
    """What was written, and what a family has to find out about it."""

    model: str
    weights: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    grid: tuple[int, int]
    width: int
    num_cls: int = 1
    licence: str | None = None
    with_text: bool = False
    with_heads: bool = False


def timm_file(folder: Path, name: str, **found) -> Released:
    """A classifier of timm, as on the hub."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    save_file(timm.create_model(name).state_dict(), folder / f"{name}.safetensors")
    statistics = timm_statistics(name)
    return Released(
        model=f"timm:{name}",
        weights=str(folder / f"{name}.safetensors"),
        mean=statistics.mean,
        std=statistics.std,
        licence="apache-2.0",
        **found,
    )


def transformers_folder(folder: Path, model_type: str, **found) -> Released:
    write_folder(folder, model_type)
    return Released(
        model=f"transformers:{folder}",
        weights=None,
        mean=tuple(MEAN),
        std=tuple(STD),
        licence="some-licence",
        width=32,
        **found,
    )


def open_clip_folder(folder: Path) -> Released:
    return Released(
        model=f"open_clip:{write_clip(folder, 'clip')}",
        weights=None,
        mean=tuple(CLIP_MEAN),
        std=tuple(CLIP_STD),
        image_size=24,
        grid=(3, 3),
        width=20,
        licence="mit",
        with_text=True,
    )


def tips_pair(folder: Path) -> Released:
    """A pair of files with its tokenizer."""
    words = folder.parent / "words"
    words.mkdir()
    return Released(
        model=f"tips:{write_pair(folder, write_tokenizer(words))}",
        weights=None,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        image_size=56,
        grid=(4, 4),
        width=128,
        num_cls=2,
        licence="CC-BY-4.0",
        with_text=True,
    )


def run_of_ours(folder: Path) -> Released:
    """A run of one step, with captions and prototypes."""
    trained(folder, "optim.steps=1", "optim.warmup=0")
    statistics = timm_statistics("vit_tiny_patch16_224")
    return Released(
        model=f"distill:{folder}",
        weights=None,
        mean=statistics.mean,
        std=statistics.std,
        image_size=32,
        grid=(4, 4),
        width=48,
        num_cls=2,
        with_text=True,
        with_heads=True,
    )


RELEASED: dict[str, dict[str, Callable[[Path], Released]]] = {
    "timm": {
        "class token": lambda folder: timm_file(folder, "test_vit", image_size=160, grid=(10, 10), width=64),
        "attention pooling": lambda folder: timm_file(folder, "test_vit3", image_size=160, grid=(10, 10), width=96),
        "convnet": lambda folder: timm_file(folder, "test_convnext", image_size=160, grid=(5, 5), width=64),
    },
    "transformers": {
        "images": lambda folder: transformers_folder(folder, "dinov2", image_size=42, grid=(3, 3)),
        "images and texts": lambda folder: transformers_folder(
            folder, "siglip", image_size=24, grid=(3, 3), with_text=True
        ),
    },
    "open_clip": {"folder": open_clip_folder},
    "tips": {"pair": tips_pair},
    "distill": {"run": run_of_ours},
}
"""At least one of every family."""
EXAMPLES = [(family, kind) for family, kinds in RELEASED.items() for kind in kinds]
