"""One recipe ready to be measured: its training step, and the bare passes of the same towers on the same batch.

Legend: B images, N patches, D width, d bottleneck, K prototypes, M supervised patches.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from distill.config import Recipe, recipe_dict
from distill.contracts import Batch
from distill.data.loader import BatchStream
from distill.data.sources import open_source
from distill.objective.patch import patch_weights, select
from distill.train import resume
from distill.train.loop import Training
from distill.train.step import training_step

PROGRESS = 0.5
"""Where in the training the measured steps lie: past every warm-up."""


@dataclass(frozen=True)
class Held:
    """Bytes that a run holds between two steps, and how many parameters the copies have."""

    student: int
    teacher: int
    optimiser: int
    student_parameters: int
    teacher_parameters: int

    @property
    def total(self) -> int:
        return self.student + self.teacher + self.optimiser


class Case:
    """`step`, `bare`, `bare_with_heads` and `draw` are the works to be timed."""

    def __init__(self, name: str, recipe: Recipe, *, run: Path, accelerator: Accelerator):
        """`run` is a scratch folder. All cases of a process share one accelerator, hence one precision."""
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        self.name, self.recipe, self.run = name, recipe, run
        self.training = Training(recipe, run=run, accelerator=accelerator)
        self.accelerator, self.device = accelerator, accelerator.device
        self.batch = self.draw()
        self._inputs = _image_inputs(self.batch, self.training)
        self._towers_cotangents: list[Tensor] | None = None
        self._all_cotangents: list[Tensor] | None = None

    def draw(self) -> Batch:
        """Make one batch from nothing, and wait for it."""
        once = replace(self.recipe, optim=replace(self.recipe.optim, steps=1))
        text, image = self.training.parts.learner.encoder.text, self.training.parts.learner.encoder.image
        teacher = self.training.parts.teacher
        size = self.recipe.data.image_size
        stream = BatchStream(
            once,
            source=open_source(once.data),
            grid=image.grid(size, size),
            tokenize=text.tokenize if text is not None else None,
            rank=0,
            world=1,
            device=self.device,
            lookup=teacher.lookup() if teacher is not None else None,
        )
        (batch,) = stream
        return batch

    def step(self) -> None:
        """The whole training step, as the trainer calls it."""
        training = self.training
        training_step(
            self.batch,
            model=training.model,
            parts=training.parts,
            optimizer=training.optimizer,
            accelerator=self.accelerator,
            progress=PROGRESS,
        )

    def bare(self) -> None:
        """Forward and backward of the towers: the student's passes, and the teacher's own if it makes one.

        No loss: the backward pass starts from fixed random gradients on every token and text.
        """
        with self.accelerator.autocast():
            outputs, _, _ = self._towers()
        if self._towers_cotangents is None:
            self._towers_cotangents = [_cotangent(output) for output in outputs]
        torch.autograd.backward(outputs, self._towers_cotangents)
        self.training.parts.learner.zero_grad()

    def bare_with_heads(self) -> None:
        """`bare`, and plain projection heads and prototype scores of the supervised patches on top, both sides."""
        learner, teacher = self.training.parts.learner, self.training.parts.teacher
        with self.accelerator.autocast():
            outputs, heard_BND, taught_BND = self._towers()
            weights_BN = self._patch_weights()
            scores_MK = _scores(learner.heads.patch, select(heard_BND, weights_BN).tokens)
            with torch.no_grad():
                _scores(teacher.heads.patch, select(taught_BND, weights_BN).tokens)
        outputs = [*outputs, scores_MK]
        if self._all_cotangents is None:
            self._all_cotangents = [_cotangent(output) for output in outputs]
        torch.autograd.backward(outputs, self._all_cotangents)
        learner.zero_grad()

    def save(self) -> Path:
        """A checkpoint of the student as it is, for a frozen teacher; returns its run folder."""
        training = self.training
        resume.save(
            self.run,
            1,
            parts=training.parts,
            optimizer=training.optimizer,
            stream=training.stream,
            accelerator=self.accelerator,
            best=None,
        )
        return self.run

    def held(self) -> Held:
        """What stays in memory between steps; call after a step, when the optimiser has its state."""
        parts, optimizer = self.training.parts, self.training.optimizer
        state = [value for group in optimizer.state.values() for value in group.values() if torch.is_tensor(value)]
        encoder = _tensors(parts.learner.encoder.image, parts.learner.heads)
        teacher = _tensors(parts.teacher)
        return Held(
            student=_bytes(_tensors(parts.learner)),
            teacher=_bytes(teacher),
            optimiser=_bytes(state),
            student_parameters=sum(tensor.numel() for tensor in encoder),
            teacher_parameters=sum(tensor.numel() for tensor in teacher),
        )

    def shown_recipe(self) -> dict[str, Any]:
        """Every setting, with words in place of the scratch folder."""
        values = recipe_dict(self.recipe)
        if self.recipe.teacher.checkpoint is not None:
            values["teacher"]["checkpoint"] = "the case `ibot` of this run after one step"
        return values

    def close(self) -> None:
        self.training.stream.close()
        self.training.journal.__exit__(None, None, None)

    def _towers(self) -> tuple[list[Tensor], Tensor, Tensor]:
        """Outputs with history; the patches [B, N, D] that the patch loss hears; those it compares them with."""
        learner, teacher, num_images = self.training.parts.learner, self.training.parts.teacher, len(self.batch.ids)
        pixels, hidden = self._inputs
        student = learner.encoder.image(pixels, hidden)
        outputs = [student.cls, student.patches]
        if self.batch.local_crops is not None:
            outputs.append(learner.encoder.image(self.batch.local_crops.flatten(0, 1)).cls)
        if self.batch.captions is not None:
            outputs.append(learner.encoder.text(self.batch.captions.flatten(0, 1)))
        if teacher.image is None:
            return outputs, student.patches[-num_images:], student.patches[:num_images].detach()
        return outputs, student.patches[-num_images:], teacher.targets(self.batch, None).tokens.patches

    def _patch_weights(self) -> Tensor:
        patch = self.recipe.objective.patch
        return patch_weights(
            self.batch.hidden,
            supervise=patch.supervise,
            normalise=patch.normalise,
            visible_weight=patch.visible_weight,
        )


def _image_inputs(batch: Batch, training: Training) -> tuple[Tensor, Tensor | None]:
    """Pixels and hidden patches of all of the student's global passes, stacked as the learner stacks them."""
    learner, hidden = training.parts.learner, batch.hidden
    if learner.sees_unmasked and learner.sees_masked:
        return torch.cat([batch.pixels, batch.pixels]), torch.cat([torch.zeros_like(hidden), hidden])
    return batch.pixels, hidden if learner.sees_masked else None


def _scores(head: nn.Module, tokens_MD: Tensor) -> Tensor:
    features_Md, prototypes_Kd = head(tokens_MD), head.prototypes()
    with torch.autocast(tokens_MD.device.type, enabled=False):
        return features_Md @ prototypes_Kd.T


def _cotangent(output: Tensor) -> Tensor:
    generator = torch.Generator(output.device).manual_seed(0)
    return torch.randn(output.shape, generator=generator, device=output.device).to(output.dtype) / len(output)


def _tensors(*modules: nn.Module | None) -> list[Tensor]:
    return [tensor for module in modules if module is not None for tensor in _of(module)]


def _of(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
