"""ONNX: both towers as graphs for any runtime. Pixels go in as RGB in [0, 1], their statistics are inside.

Batches are of any size, and pictures too where the tower's own pass is traced with free sides: positions are resampled
inside. Weights are float32 always: runtimes on CPUs know no other precision for every operator.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from distill.contracts import ImageEncoder, TextEncoder
from distill.encoders.text_tips import TipsText
from distill.extras import optional_module
from distill.publish.student import INTERPOLATION, RESIZE_MODE, Subject

IMAGE, TEXT, CONFIG, TOKENIZER = "image.onnx", "text.onnx", "config.json", "tokenizer.model"
LARGEST = 1_500_000_000
"""Bytes of weights inside of a graph; more lie beside it, because a graph may not exceed 2 GiB."""


class ImageGraph(nn.Module):
    """The tower with plain tensors for its outputs."""

    def __init__(self, tower: ImageEncoder):
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B C D"], Float[Tensor, "B N D"]]:
        tokens = self.tower(pixels)
        return tokens.cls, tokens.patches


def refusal(subject: Subject) -> str | None:
    """None: every tower can be traced. ValueError naming the extra where a package is missing."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        optional_module(package, needed_by="the onnx format")
    return None


def write(subject: Subject, folder: Path) -> None:
    """image.onnx, text.onnx, config.json, and the tokenizer where it is a file."""
    free_sides = _export_image(subject.image, folder / IMAGE, side=subject.image_size)
    page: dict[str, Any] = {
        "image_size": subject.image_size,
        "patch_size": subject.image.patch_size,
        "any_size": free_sides,
        "resize_mode": RESIZE_MODE,
        "interpolation": INTERPOLATION,
        "num_cls": subject.image.num_cls,
        "width": subject.image.width,
    }
    if subject.text is not None:
        _export_text(subject.text, folder / TEXT)
        page |= _about_text(subject)
        if isinstance(subject.text, TipsText):
            shutil.copyfile(subject.text.tokenizer, folder / TOKENIZER)
    (folder / CONFIG).write_text(json.dumps(page, indent=2) + "\n", encoding="utf-8")


def _about_text(subject: Subject) -> dict[str, Any]:
    of_tips = isinstance(subject.text, TipsText)
    return {
        "context_length": subject.text.context_length,
        "tokenizer": TOKENIZER if of_tips else "CLIP's, as open_clip.SimpleTokenizer",
        "lower_case": True,
        "temperature": subject.temperature,
        "logit_bias": subject.logit_bias,
    }


def _export_image(tower: ImageEncoder, path: Path, *, side: int) -> bool:
    """Returns whether pictures may be of any size."""
    free = torch.export.Dim.DYNAMIC
    graph = ImageGraph(tower).eval()
    outputs = ["cls", "patches"]
    # Sides of one patch, or equal to each other, would be taken for what they have to be.
    larger = side + tower.patch_size * (1 if side > tower.patch_size else 2)
    pixels = torch.rand(2, 3, larger, larger + tower.patch_size)
    try:
        _export(graph, pixels, path, name="pixels", outputs=outputs, shapes={0: free, 2: free, 3: free})
        return True
    except (torch.onnx.OnnxExporterError, RuntimeError):
        _export(graph, torch.rand(2, 3, side, side), path, name="pixels", outputs=outputs, shapes={0: free})
        return False


def _export_text(tower: TextEncoder, path: Path) -> None:
    ids: Int[Tensor, "B L"] = torch.ones(2, tower.context_length, dtype=torch.long)
    _export(tower, ids, path, name="ids", outputs=["features"], shapes={0: torch.export.Dim.DYNAMIC})


def _export(graph: nn.Module, example: Tensor, path: Path, *, name: str, outputs: list[str], shapes: dict) -> None:
    size = sum(parameter.numel() * parameter.element_size() for parameter in graph.parameters())
    loggers = [logging.getLogger(package) for package in ("onnxscript", "torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        torch.onnx.export(
            graph,
            (example,),
            path,
            input_names=[name],
            output_names=outputs,
            dynamic_shapes=(shapes,),
            dynamo=True,
            verbose=False,
            external_data=size > LARGEST,
        )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
