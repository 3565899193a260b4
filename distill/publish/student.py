"""What is published: the towers of a finished run, without heads, adapters and optimiser, and what goes with them."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from distill.config import Recipe, recipe_from_file
from distill.contracts import ImageEncoder, TextEncoder
from distill.encoders.dual import DualEncoder
from distill.encoders.low_rank import merge_adapters
from distill.eval.command import load_encoder
from distill.train.checkpoint import Checkpoint, all_steps, find, folder_of

Dtype = Literal["fp32", "fp16", "bf16"]
Side = Literal["student", "teacher"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
RESIZE_MODE, INTERPOLATION = "squash", "bilinear"
"""How a picture becomes one of the training's side in every format, in open_clip's words: the whole of it is stretched
to a square, antialiased. Evaluation reads pictures so (`distill.eval.pictures.datasets.read_square`)."""
UNTAUGHT_TEMPERATURE = 0.07
"""CLIP's start, for text towers that no contrastive loss has heard."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An encoder on the CPU in eval mode, with what its published folders have to say about it."""

    encoder: DualEncoder
    recipe: Recipe
    checkpoint: Path
    """Folder of the checkpoint."""
    side: Side = "student"
    temperature: float
    """Of CLS 1 and its captions."""
    logit_bias: float | None
    """Of the sigmoid loss; None without it."""
    licence: str | None = None
    """Under which it is published; None where that is left open."""

    @property
    def image(self) -> ImageEncoder:
        return self.encoder.image

    @property
    def text(self) -> TextEncoder | None:
        return self.encoder.text

    @property
    def image_size(self) -> int:
        """Side of the pictures it was trained on, pixels."""
        return self.recipe.data.image_size

    @property
    def mean(self) -> list[float]:
        return _as_written(self.image.pixel_mean)

    @property
    def std(self) -> list[float]:
        return _as_written(self.image.pixel_std)


def load_subject(path: Path, *, side: Side) -> Subject:
    """The student, or the teacher that learnt beside it, of a run or checkpoint folder.

    Raises ValueError when there is none, for a run whose training has not ended, and for weights that are not finite.
    A checkpoint folder that is named itself may be of any step: whoever names it means that one.
    """
    found = find(path)
    kind = recipe_from_file(found.folder / "recipe.yaml").teacher.kind
    if side == "teacher" and kind in ("frozen", "ensemble"):
        raise ValueError(f"--side teacher: the teacher of {path} is {kind} and learnt nothing; it is published already")
    encoder, recipe = load_encoder(found.folder, side)
    if found.step < recipe.optim.steps and found.folder != path:
        raise ValueError(
            f"the last checkpoint of {path} is of step {found.step} of {recipe.optim.steps}: this run is not finished; "
            f"give its training command again, it goes on from there, or publish {found.folder} as it is"
        )
    merge_adapters(encoder)
    check_finite(encoder, what=str(found.folder), instead=_earlier(found))
    contrast = _contrast(found, recipe)
    return Subject(encoder=encoder.eval(), recipe=recipe, checkpoint=found.folder, side=side, **contrast)


def check_finite(module: nn.Module, *, what: str, instead: str) -> None:
    """ValueError naming the first tensor that holds NaN or infinity, and what to do `instead`."""
    broken = [name for name, value in module.state_dict().items() if not value.isfinite().all()]
    if broken:
        others = f" and {len(broken) - 1} more tensors hold" if len(broken) > 1 else " holds"
        raise ValueError(f"{what}: {broken[0]}{others} NaN or infinity; {instead}")


def rounded(subject: Subject, dtype: Dtype) -> Subject:
    """The same with the towers' weights rounded to `dtype`, computing in float32 as before.

    Raises ValueError where a weight is too large for it.
    """
    if dtype == "fp32":
        return subject
    encoder = copy.deepcopy(subject.encoder)
    for name, value in encoder.state_dict().items():
        if value.is_floating_point() and not name.startswith("image.pixel_"):
            value.copy_(value.to(DTYPES[dtype]))
    others = "fp32" if dtype == "bf16" else "bf16 or fp32"
    check_finite(encoder, what=f"{subject.checkpoint} in {dtype}", instead=f"choose --dtype {others}")
    return replace(subject, encoder=encoder)


def stored(tensor: Tensor, dtype: Dtype) -> Tensor:
    """A tensor of rounded weights as it is written: smaller wherever that loses nothing.

    A format that keeps the sum of two rounded tensors keeps it in float32.
    """
    if not tensor.is_floating_point():
        return tensor.contiguous()
    small = tensor.detach().to(DTYPES[dtype])
    return (small if torch.equal(small.to(tensor.dtype), tensor) else tensor.detach()).contiguous()


def _earlier(found: Checkpoint) -> str:
    """What to publish instead of a broken checkpoint."""
    run = found.folder.parent.parent
    steps = [step for step in all_steps(run) if step < found.step]
    if not steps:
        return "the run has kept no earlier checkpoint: train it again"
    return f"publish an earlier checkpoint, such as {folder_of(run, steps[-1])}"


def _contrast(found: Checkpoint, recipe: Recipe) -> dict[str, float | None]:
    """Temperature and bias of CLS 1, as learnt."""
    tensors = found.tensors("student")
    scale, bias = tensors.get("temperatures.log_scale"), tensors.get("temperatures.bias")
    started = recipe.objective.contrastive.temperature or UNTAUGHT_TEMPERATURE
    return {
        "temperature": started if scale is None else (-scale[0]).exp().item(),
        "logit_bias": None if bias is None else bias[0].item(),
    }


def _as_written(statistics: Tensor) -> list[float]:
    """Three numbers as a person would write them: 0.485, not 0.48500001430511475."""
    return [float(f"{value:.7g}") for value in statistics.flatten().tolist()]
