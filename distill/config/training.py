"""Settings of the optimiser, of the evaluation during training, and of how a run is carried out."""

import math
from dataclasses import dataclass, field
from typing import Literal

from distill.config.checks import check, in_range


@dataclass(frozen=True, kw_only=True)
class Optim:
    name: Literal["adamw", "adafactor"] = "adamw"
    lr: float = 1.5e-3
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises linearly."""
    lr_end: float = 0.0
    """Final learning rate as a share of `lr`."""
    weight_decay: float = 0.05
    """Not applied to biases, norms, tokens, positions and temperatures."""
    betas: tuple[float, float] = (0.9, 0.98)
    layer_decay: float = 1.0
    """Learning rate of block i of L is multiplied by this to the power L - i."""
    head_lr_scale: float = 1.0
    clip: float = 1.0
    """Largest gradient norm; 0 switches clipping off."""
    steps: int = 1000
    accumulate: int = 1
    """Micro-batches per step; changes memory, not results."""

    def __post_init__(self) -> None:
        check(self.lr >= 0 and math.isfinite(self.lr), "lr", f"{self.lr} is not a finite positive number")
        in_range(self, 0.0, 1.0, "warmup", "lr_end", "layer_decay")
        check(self.weight_decay >= 0, "weight_decay", f"{self.weight_decay} is negative")
        check(self.head_lr_scale >= 0, "head_lr_scale", f"{self.head_lr_scale} is negative")
        check(self.clip >= 0, "clip", f"{self.clip} is negative")
        check(self.steps >= 1, "steps", f"{self.steps} is not positive")
        check(self.accumulate >= 1, "accumulate", f"{self.accumulate} is not positive")


TASKS_WITH_TEXT = frozenset(
    {"zero_shot_segmentation", "retrieval", "zero_shot_classification", "compositional_pairs", "alignment"}
)
"""Tasks of `Evaluate` that need a text tower."""


@dataclass(frozen=True, kw_only=True)
class TableColumns:
    """Which column of a table (`hf:`) is what; `a.b` is the field b of the column a."""

    image: str = "image"
    label: str = "label"
    """A class: a number with a name, or its name."""
    captions: str = "captions"
    """One text, or a list of them."""
    mask: str = "mask"
    """A picture with a class's number in every pixel, or rows of these numbers."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """What is measured, on held-out pictures. Never changes the training."""

    tasks: tuple[
        Literal[
            "zero_shot_segmentation",
            "linear_segmentation",
            "retrieval",
            "knn",
            "zero_shot_classification",
            "linear_classification",
            "compositional_pairs",
            "instance_retrieval",
            "depth",
            "normals",
            "health",
            "alignment",
        ],
        ...,
    ] = ()
    every: int = 0
    """Steps between evaluations during training; 0 evaluates at the end only."""
    side: Literal["student", "teacher"] = "student"
    """Who is measured during training, and whose scores choose the best checkpoint. teacher: a momentum teacher's
    average of the image tower beside the student's text tower, or a partial teacher."""
    baselines: bool = False
    """Also measure, before the first step, the untrained student and a frozen teacher with the same tasks."""
    num_images: int = 512
    """Budget during training."""
    root: str | None = None
    """Folder with the data sets that are asked for by name; what DISTILL_DATA says when not set."""
    segmentation: str | None = None
    """Held-out pictures with masks: a folder in the layout of shared/data/coco_panoptic, or a name of `distill eval
    list`, such as ade20k; for retrieval the pictures with captions, such as flickr30k. Or hf: before a folder, file or
    glob on disk that `datasets` reads by `columns`. Scenes when not set."""
    classes: str | None = None
    """knn, zero-shot and linear classification, health: image-classification folder with train/ and val/, or a name of
    `distill eval list`, such as imagenet; or hf:, as above."""
    columns: TableColumns = field(default_factory=TableColumns)
    class_names: str | None = None
    """hf: file of what the classes are called, for tables that do not say it: a name a line, from 0 on, or value, tab
    and name; a value without a name does not count."""
    split: str | None = None
    """hf: the split that is scored; the first of validation, val, valid, dev and test that is there when not set."""
    pairs: str | None = None
    """compositional_pairs: a folder of SugarCrepe's files, or the name sugarcrepe; scenes when not set."""
    instances: str | None = None
    """instance_retrieval: a folder with index/ and query/, or of such folders; or uned; scenes when not set."""
    index: Literal["auto", "own", "merged"] = "auto"
    """instance_retrieval: what a query of one sub-set looks among, the pictures of its own or of all. auto: merged for
    uned, whose benchmark does so, and own for folders."""
    geometry: str | None = None
    """depth, normals: folder in the layout of shared/data/depth_samples, or a name of `distill eval list`, such as
    nyuv2; scenes when not set."""
    depth_crop: Literal["eigen", "none"] = "eigen"
    """depth: which pixels of nyuv2 count, those inside the Eigen crop (DINOv2's protocol) or all; nothing elsewhere."""
    classifier: Literal["sgd", "lbfgs"] = "lbfgs"
    """Linear classification: the exact minimum, which is quick; or DINOv2's 12,500 steps, the published protocol."""
    classifier_reads: Literal["last", "dinov2"] = "last"
    """Linear classification: CLS 1 and the mean patch of the last block; or, as DINOv2 publishes, the best of CLS 1 of
    the last block or of the last four, without or with the mean patch: for transformers of four blocks or more."""
    probe: Literal["ridge", "linear", "dpt"] = "ridge"
    """linear_segmentation, depth, normals: in closed form; a trained linear layer, as DINOv2's; or (depth, normals) a
    trained DPT head."""
    probe_steps: int = 1000
    """linear, dpt: optimiser steps, each on 16 views. The protocols' are 38,400 for depth, 40,000 for segmentation."""
    decoder: str | None = None
    """depth, normals with probe=dpt: a released decoder of TIPSv2, an .npz, .zip or .safetensors file or a folder that
    holds one, which is scored as it is instead of training a head. It reads encoders of one width."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """In which the encoder looks at pictures: bf16 is autocast, quicker where the processor has it, and moves scores a
    little. What is made of its features is computed in fp32 or finer."""
    templates: Literal["plain", "tcl", "imagenet80"] = "plain"
    features: Literal["value", "final"] = "value"
    mode: Literal["whole", "slide"] = "whole"
    """Zero-shot and linear segmentation: pictures are seen whole or in windows of the training pictures' size. The
    published protocol of probe=linear slides."""
    background: Literal["named", "threshold"] = "named"
    """Zero-shot segmentation of sets with a class called background: a name like any other, or `background_score`."""
    background_score: float = 0.0
    """threshold: the cosine that the other classes have to exceed, -1 to 1."""
    hidden_ratio: float = 0.75
    """alignment: share of patches hidden in the pass that asks visible and hidden ones apart; 0 leaves it out."""

    def __post_init__(self) -> None:
        check(self.every >= 0, "every", f"{self.every} is negative")
        check(self.num_images >= 1, "num_images", f"{self.num_images} is not positive")
        check(self.probe_steps >= 1, "probe_steps", f"{self.probe_steps} is not positive")
        in_range(self, 0.0, 0.95, "hidden_ratio")
        check(-1 <= self.background_score <= 1, "background_score", f"{self.background_score} is no cosine: -1 to 1")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where and how the run is carried out: nothing here changes its results."""

    folder: str = "runs"
    name: str | None = None
    """Sub-folder; the recipe's name and seed when not set."""
    checkpoint_every: int = 500
    keep: int = 2
    """Checkpoints kept beside the best one."""
    log_every: int = 20
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"] = "none"
    workers: int = 2
    """Threads that read and decode pictures."""
    prefetch: int = 4
    """Batches prepared ahead."""
    resume: bool = True
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        check(self.checkpoint_every >= 1, "checkpoint_every", f"{self.checkpoint_every} is not positive")
        check(self.keep >= 1, "keep", f"{self.keep} is not positive")
        check(self.log_every >= 1, "log_every", f"{self.log_every} is not positive")
        check(self.workers >= 1, "workers", f"{self.workers} is not positive")
        check(self.prefetch >= 1, "prefetch", f"{self.prefetch} is not positive")
