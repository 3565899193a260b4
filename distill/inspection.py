"""`distill teachers inspect`: a look at an encoder of one of the families, and at its features."""

import argparse
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from distill.catalogue.families import wrapped
from distill.compose import RANDOM, Pretrained, load_pretrained
from distill.config import Scenes
from distill.contracts import Tokens
from distill.data.scenes.world import SceneWorld
from distill.encoders.dual import DualEncoder
from distill.eval import sanity
from distill.eval.features import unit
from distill.exit_codes import FINISHED

NUM_PICTURES = 8
"""At least; more where the grid is so coarse that they would make fewer than NUM_PATCHES."""
NUM_PATCHES = 256


def inspect(options: argparse.Namespace) -> int:
    """Load one encoder, print what it is, and look at its features of a few scenes. Warnings are not failures."""
    found = load_pretrained(options.model, options.weights)
    print(found.name)
    for label, value in _facts(found):
        print(wrapped(f"  {label:<12}", value))
    pixels, captions = _scenes(found)
    tokens = _tokens(found, pixels)
    look = sanity.look_at(tokens, pixels)
    print(f"\nits features of {len(pixels)} scenes of {found.image_size} x {found.image_size} pixels")
    for label, value in _seen(look):
        print(wrapped(f"  {label:<28}", value))
    text = _look_at_texts(found, tokens, captions)
    for label, value in _heard(text) if text else ():
        print(wrapped(f"  {label:<28}", value))
    warnings = sanity.warnings(look, text)
    print()
    for warning in warnings:
        print(wrapped("warning: ", warning))
    if not warnings:
        print("nothing looks wrong, as far as a few scenes can tell")
    return FINISHED


def _facts(found: Pretrained) -> Iterator[tuple[str, str]]:
    image, side = found.image, found.image_size
    rows, columns = image.grid(side, side)
    yield "weights", "random, as asked for: it has learnt nothing" if found.source == RANDOM else found.source
    yield "licence", found.licence or "not stated"
    yield (
        "pictures",
        f"{side} x {side} pixels; mean {_numbers(image.pixel_mean)}, deviation {_numbers(image.pixel_std)}",
    )
    yield "patches", f"{rows} x {columns}, each of {image.patch_size} x {image.patch_size} pixels, {image.width} wide"
    yield "CLS tokens", f"{image.num_cls}: {found.cls}"
    yield "image tower", f"{found.num_parameters:,} parameters, {image.num_layers} layers"
    if found.text is None:
        yield "text tower", "none"
    else:
        parameters = sum(parameter.numel() for parameter in found.text.parameters())
        yield "text tower", f"{parameters:,} parameters, {found.text.num_layers} layers, {found.text.width} wide"
        yield "temperature", "not stated" if found.temperature is None else f"{found.temperature:.4g}"
    yield "heads", "none" if found.heads is None else f"projection heads with {found.num_prototypes:,} prototypes"


def _seen(look: sanity.Look) -> Iterator[tuple[str, str]]:
    yield "finite", "yes" if look.finite else "no"
    if not look.finite:
        return
    yield "cosine inside a picture", f"{_number(look.within)} between its patches (1: all alike)"
    yield "cosine across pictures", f"{_number(look.across)} at the same place (1: pictures do not matter)"
    yield "variance by place alone", f"{look.by_place:.0%}"
    yield "variance by colours alone", "–" if math.isnan(look.colours) else f"{max(look.colours, 0):.0%}"
    yield "effective rank", f"{look.rank:.0f} of {look.largest_rank}"
    yield "largest dimension", f"{look.largest_share:.0%} of the variance"


def _heard(text: sanity.TextLook) -> Iterator[tuple[str, str]]:
    yield "cosine with its caption", f"{_number(text.own)} ({_number(text.other)} with another's)"
    yield "cosine between captions", _number(text.between_texts)


def _scenes(found: Pretrained) -> tuple[Tensor, list[str]]:
    """Held-out pictures at the encoder's own size, and their short captions."""
    rows, columns = found.image.grid(found.image_size, found.image_size)
    indices = torch.arange(max(NUM_PICTURES, math.ceil(NUM_PATCHES / (rows * columns))))
    world = SceneWorld(Scenes(), found.image_size)
    return world.render(indices, split="heldout").pixels, world.captions(indices, "short", "heldout")


@torch.no_grad()
def _tokens(found: Pretrained, pixels: Tensor) -> Tokens:
    """Picture by picture: the largest encoders at their own size need much memory."""
    parts = [found.image(picture) for picture in pixels.split(1)]
    cls, patches = (torch.cat([getattr(part, name) for part in parts]) for name in ("cls", "patches"))
    return Tokens(cls=cls, patches=patches, grid=parts[0].grid)


def _look_at_texts(found: Pretrained, tokens: Tokens, captions: list[str]) -> sanity.TextLook | None:
    """None without a text tower, or where random weights came without a tokenizer."""
    if found.text is None:
        return None
    try:
        texts = DualEncoder(found.image, found.text).encode_text(captions)
    except ValueError:
        if found.source == RANDOM:
            return None
        raise
    return sanity.look_at_texts(unit(tokens.cls[:, 0]), texts)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _numbers(values: Tensor) -> str:
    return " ".join(f"{value:.3g}" for value in values.flatten().tolist())
