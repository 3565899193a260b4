"""Gradient accumulation that equals one big batch.

The contrastive loss and Sinkhorn's balance look at the whole batch, so adding up the losses of micro-batches would
be another objective. Instead (GradCache, Gao et al. 2021, arXiv 2101.06983): a first pass without history collects
what the whole batch has to know of itself, the second goes back through one micro-batch at a time with the gradient
that the whole batch gave it. The price is one more forward pass; the gain is that a step's memory is a
micro-batch's.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from distill.compose import Parts
from distill.contracts import Batch, Losses, Predictions, Tokens
from distill.objective.prototype_terms import Offsets


@dataclass(frozen=True)
class Contrast:
    """The contrastive loss of the whole batch and its gradients on features and temperatures."""

    losses: Losses
    cls_BCD: Tensor
    text_CBD: Tensor
    temperatures: list[Tensor]


def backward_in_pieces(
    batch: Batch,
    *,
    model: nn.Module,
    parts: Parts,
    accelerator: Accelerator,
    progress: float,
    overhear: bool = False,
) -> Losses:
    """Leave in `.grad` what one backward pass over the whole batch would have left; returns that batch's losses.

    Dropout would differ between the two passes, so recipes with it are refused.
    """
    pieces = split(batch, parts.recipe.optim.accumulate)
    contrast, offsets = _look_at_everything(
        pieces, model=model, parts=parts, accelerator=accelerator, progress=progress
    )
    seen: list[Losses] = []
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        with nullcontext() if last else accelerator.no_sync(model):
            with accelerator.autocast():
                predictions = model(piece)
                targets = parts.teacher.targets(piece, predictions) if parts.teacher else None
                losses = parts.objective.transfer(
                    predictions,
                    targets,
                    hidden=piece.hidden,
                    heads=parts.learner.heads,
                    adapters=parts.learner.adapters,
                    progress=progress,
                    offsets=offsets,
                    overhear=overhear,
                )
                total = losses.total / len(pieces)
                if contrast is not None:
                    start = number * len(piece.ids)
                    total = total + _surrogate(contrast, predictions, slice(start, start + len(piece.ids)), last, parts)
            accelerator.backward(total)
        seen.append(losses)
    return _whole(contrast, seen)


def split(batch: Batch, pieces: int) -> list[Batch]:
    """Micro-batches of equal size, in order."""
    size = len(batch.ids) // pieces
    return [_part(batch, slice(start, start + size)) for start in range(0, size * pieces, size)]


def _part(batch: Batch, rows: slice) -> Batch:
    return Batch(
        ids=batch.ids[rows],
        pixels=batch.pixels[rows],
        hidden=batch.hidden[rows],
        captions=None if batch.captions is None else batch.captions[:, rows],
        local_crops=None if batch.local_crops is None else batch.local_crops[:, rows],
        teacher_pixels={side: pixels[rows] for side, pixels in batch.teacher_pixels.items()},
        stored=None if batch.stored is None else {name: value[rows] for name, value in batch.stored.items()},
        teacher_draws=None if batch.teacher_draws is None else batch.teacher_draws[rows],
    )


def _look_at_everything(
    pieces: list[Batch], *, model: nn.Module, parts: Parts, accelerator: Accelerator, progress: float
) -> tuple[Contrast | None, Offsets | None]:
    """First pass: contrastive gradients and prototype offsets of the whole batch, without history."""
    prototypes, teacher = parts.objective.transfer.prototypes, parts.teacher
    cls, text, features = [], [], []
    with torch.no_grad(), accelerator.autocast():
        for piece in pieces:
            predictions = model(piece)
            if predictions.text is not None:
                cls.append(predictions.unmasked.cls.float())
                text.append(predictions.text.float())
            if prototypes is not None:
                targets = teacher.targets(piece, predictions)
                student = predictions.masked or predictions.unmasked
                grid = student.grid if student is not None else None
                features.append(prototypes.target_features(targets, hidden=piece.hidden, grid=grid))
        offsets = None
        if prototypes is not None:
            offsets = prototypes.offsets(features, heads=teacher.heads, progress=progress)
    contrast = _contrast(torch.cat(cls), torch.cat(text, dim=1), parts, accelerator) if cls else None
    return contrast, offsets


def _contrast(cls_BCD: Tensor, text_CBD: Tensor, parts: Parts, accelerator: Accelerator) -> Contrast:
    cls_BCD, text_CBD = cls_BCD.requires_grad_(), text_CBD.requires_grad_()
    temperatures = list(parts.learner.temperatures.parameters())
    nothing = torch.empty(len(cls_BCD), 0, cls_BCD.shape[-1], device=cls_BCD.device)
    unmasked = Tokens(cls=cls_BCD, patches=nothing, grid=(0, 0))
    losses = parts.objective.contrast(
        Predictions(unmasked=unmasked, masked=None, local_cls=None, text=text_CBD),
        temperatures=parts.learner.temperatures,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    gradients = torch.autograd.grad(losses.total, [cls_BCD, text_CBD, *temperatures])
    return Contrast(losses=losses, cls_BCD=gradients[0], text_CBD=gradients[1], temperatures=list(gradients[2:]))


def _surrogate(contrast: Contrast, predictions: Predictions, rows: slice, last: bool, parts: Parts) -> Tensor:
    """A number whose gradient on this micro-batch is the whole batch's contrastive gradient.

    Temperatures belong to no micro-batch: they get theirs with the last, and a zero before, for data parallelism.
    """
    features = (predictions.unmasked.cls.float() * contrast.cls_BCD[rows]).sum()
    features = features + (predictions.text.float() * contrast.text_CBD[:, rows]).sum()
    pairs = zip(parts.learner.temperatures.parameters(), contrast.temperatures, strict=True)
    return features + sum((own * (gradient if last else 0 * gradient)).sum() for own, gradient in pairs)


def _whole(contrast: Contrast | None, seen: list[Losses]) -> Losses:
    """Losses of the whole batch: the contrastive ones as they are, the others averaged over micro-batches."""

    def average(values: list[Tensor]) -> Tensor:
        return torch.stack([value.detach() for value in values]).mean()

    total = average([losses.total for losses in seen])
    terms = {name: average([losses.terms[name] for losses in seen]) for name in seen[0].terms}
    diagnostics = {name: average([losses.diagnostics[name] for losses in seen]) for name in seen[0].diagnostics}
    if contrast is None:
        return Losses(total=total, terms=terms, diagnostics=diagnostics)
    return Losses(
        total=total + contrast.losses.total.detach(), terms=contrast.losses.terms | terms, diagnostics=diagnostics
    )
