"""Tiny runs of partly trainable teachers, step by step."""

from pathlib import Path

from tiny_runs import opened
from torch import Tensor, nn

from distill.config import Recipe
from distill.train.step import training_step

CROPS = ("objective.cls.weight=1", "data.views.num_local=2")
# Decay and momentum would move what gets no gradient, if the optimiser held it.
EAGER = ("optim.warmup=0", "optim.weight_decay=0.5", "optim.lr=1e-2")
PARTS = {
    "head": ("teacher.trainable=[head]",),
    "blocks": ("teacher.trainable=[blocks]", "teacher.last_k=1"),
    "norms": ("teacher.trainable=[norms]",),
    "adapters": ("teacher.trainable=[adapters]", "teacher.rank=2", "teacher.alpha=4"),
    "all four": ("teacher.trainable=[head,blocks,norms,adapters]", "teacher.last_k=1", "teacher.rank=2"),
}


def partial(run: Path, *settings: str) -> tuple[str, ...]:
    return ("teacher.kind=partial", f"teacher.checkpoint={run}", *(settings or PARTS["head"]))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def stepped(recipe: Recipe, *, steps: int = 3) -> tuple[dict[str, Tensor], dict[str, Tensor], list[float]]:
    """The teacher's state before and after some steps, and their losses."""
    found = []
    with opened(recipe) as training:
        before = state(training.parts.teacher)
        for number, batch in zip(range(steps), training.stream, strict=False):
            step = training_step(
                batch,
                model=training.model,
                parts=training.parts,
                optimizer=training.optimizer,
                accelerator=training.accelerator,
                progress=number / 10,
                overhear=True,
            )
            assert not any(value.requires_grad for value in step.losses.diagnostics.values())
            found.append(step.losses.total.item())
        return before, state(training.parts.teacher), found
