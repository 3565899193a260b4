"""The recipe: every setting of a run as frozen dataclasses. Importing this loads no torch.

Each class checks its own ranges; `Recipe` checks what only makes sense together and raises
`InvalidCombination`. Settings under `run` never change results.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

Granularity = Literal["alt", "short", "detailed"]


class InvalidValue(ValueError):
    """A value outside its range. `key` is relative to the class that raises it."""

    def __init__(self, key: str, message: str):
        super().__init__(f"{key}: {message}")
        self.key = key
        self.message = message


class InvalidCombination(ValueError):
    """Settings that are fine alone and mean nothing together. `keys` are full dotted names."""

    def __init__(self, keys: tuple[str, ...], message: str):
        super().__init__(message)
        self.keys = keys


def _check(condition: bool, key: str, message: str) -> None:
    if not condition:
        raise InvalidValue(key, message)


def _in_range(section: object, low: float, high: float, *keys: str) -> None:
    for key in keys:
        value = getattr(section, key)
        _check(low <= value <= high, key, f"{value} is not between {low:g} and {high:g}")


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """The procedural world (distill/data/scenes)."""

    tier: Literal["easy", "medium", "hard"] = "medium"
    split: Literal["standard", "compositional"] = "standard"
    """`compositional` keeps some colour–shape pairs out of training and evaluates on them."""
    world_seed: int = 0
    num_train: int = 1_000_000
    """Distinct training pictures; drawn pictures repeat after this many."""

    def __post_init__(self) -> None:
        _check(self.num_train >= 1, "num_train", f"{self.num_train} is not positive")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column of the data set is what. Captions may be a string or a list of strings."""

    image: str = "image"
    alt: str | None = None
    short: str | None = None
    detailed: str | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Image–caption data read through Hugging Face `datasets`."""

    format: Literal["parquet", "imagefolder", "webdataset"] = "imagefolder"
    path: str = ""
    """Folder, file or glob. Relative paths are taken from the working directory."""
    captions_file: str | None = None
    """JSON of {file name: caption or list of captions} for folders without a metadata file."""
    columns: Columns = field(default_factory=Columns)
    streaming: bool = False
    shuffle_buffer: int = 1000
    """Pictures held back for shuffling when streaming."""
    max_broken_share: float = 0.05
    """The run stops when more than this share of the samples read so far was broken."""

    def __post_init__(self) -> None:
        _check(self.shuffle_buffer >= 1, "shuffle_buffer", f"{self.shuffle_buffer} is not positive")
        _in_range(self, 0.0, 1.0, "max_broken_share")


@dataclass(frozen=True, kw_only=True)
class Views:
    """How one picture becomes one global view and some local crops. Only resize, crop and flip (tipsv2.md 2)."""

    global_scale: tuple[float, float] = (1.0, 1.0)
    """Share of the picture's area that the global view shows, drawn uniformly."""
    flip: float = 0.0
    """Probability of a horizontal flip."""
    num_local: int = 0
    local_scale: tuple[float, float] = (0.1, 0.4)
    local_size: int = 32
    """Side of a local crop, pixels."""

    def __post_init__(self) -> None:
        for key in ("global_scale", "local_scale"):
            low, high = getattr(self, key)
            _check(0.0 < low <= high <= 1.0, key, f"({low}, {high}) is not 0 < low <= high <= 1")
        _in_range(self, 0.0, 1.0, "flip")
        _in_range(self, 0, 64, "num_local")


@dataclass(frozen=True, kw_only=True)
class Data:
    source: Literal["scenes", "dataset"] = "scenes"
    image_size: int = 64
    """Side of the global view, pixels."""
    batch_size: int = 128
    """Pictures per optimiser step, over all ranks and accumulated micro-batches."""
    scenes: Scenes = field(default_factory=Scenes)
    dataset: Dataset = field(default_factory=Dataset)
    views: Views = field(default_factory=Views)

    def __post_init__(self) -> None:
        _in_range(self, 8, 4096, "image_size")
        _in_range(self, 1, 1_048_576, "batch_size")


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Which patches the student may not see."""

    ratio: float = 0.75
    """Share of patches hidden in a masked picture."""
    pattern: Literal["random", "block"] = "random"
    image_share: float = 1.0
    """Share of the pictures that are masked at all."""

    def __post_init__(self) -> None:
        _in_range(self, 0.0, 0.95, "ratio")
        _in_range(self, 0.0, 1.0, "image_share")


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Who makes the targets."""

    kind: Literal["momentum", "frozen"] = "momentum"
    scope: Literal["encoder_and_head", "head"] = "encoder_and_head"
    """momentum: what the EMA copies. `head` is head-only EMA: the encoder is the student's own, stop-gradient."""
    momentum: float = 0.994
    momentum_end: float = 1.0
    """momentum: rises from `momentum` to this along a cosine."""
    checkpoint: str | None = None
    """frozen: run folder or checkpoint folder of one of our own trainings."""
    model: str | None = None
    """frozen: `timm:NAME`, with `weights`."""
    weights: str | None = None
    """frozen: local safetensors file for `model`."""
    image_size: int | None = None
    """frozen: side of the pictures the teacher sees, pixels; its own default when not set."""

    def __post_init__(self) -> None:
        _in_range(self, 0.0, 1.0, "momentum", "momentum_end")
        _check(self.momentum <= self.momentum_end, "momentum", "must not exceed momentum_end")


@dataclass(frozen=True, kw_only=True)
class ImageTower:
    """The student's image encoder. Sizes that are not set keep the model's own."""

    model: str = "timm:vit_tiny_patch16_224"
    patch_size: int | None = None
    width: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    num_cls: Literal[1, 2] = 2
    """CLS tokens: the class token, and the first register as the second one."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the timm model, e.g. {drop_path_rate: 0.1}."""
    init: str = "random"
    """`random`, `teacher`, or the path of a run or checkpoint folder."""
    update: Literal["train", "freeze", "last_k"] = "train"
    last_k: int = 0
    """update=last_k: this many last blocks (and the final norm) are trained."""
    gradient_checkpointing: bool = False
    lr_scale: float = 1.0

    def __post_init__(self) -> None:
        _check(self.model.startswith("timm:"), "model", f"{self.model!r} does not start with 'timm:'")
        _check((self.update == "last_k") == (self.last_k > 0), "last_k", "is set exactly when update=last_k")
        _check(self.lr_scale >= 0, "lr_scale", f"{self.lr_scale} is negative")


@dataclass(frozen=True, kw_only=True)
class TextTower:
    """The student's text encoder. Its output has the image tower's width."""

    kind: Literal["open_clip", "tips", "none"] = "open_clip"
    width: int = 96
    depth: int = 2
    num_heads: int = 2
    context_length: int = 64
    """Tokens per caption."""
    tokenizer: str | None = None
    """tips: path of the SentencePiece model. open_clip brings its own."""
    init: str = "random"
    update: Literal["train", "freeze", "last_k"] = "train"
    last_k: int = 0
    lr_scale: float = 1.0

    def __post_init__(self) -> None:
        _in_range(self, 4, 1024, "context_length")
        _check(self.width % self.num_heads == 0, "width", f"{self.width} is not a multiple of num_heads")
        _check((self.update == "last_k") == (self.last_k > 0), "last_k", "is set exactly when update=last_k")
        _check(self.lr_scale >= 0, "lr_scale", f"{self.lr_scale} is negative")


@dataclass(frozen=True, kw_only=True)
class Head:
    """Projection head: 3-layer MLP, L2-normalised bottleneck, weight-normalised prototypes."""

    num_prototypes: int = 1024
    hidden: int = 2048
    bottleneck: int = 256
    shared: bool = True
    """One head for the global and the patch loss, or one each."""
    init: Literal["random", "teacher"] = "random"

    def __post_init__(self) -> None:
        _in_range(self, 2, 4_194_304, "num_prototypes")
        _in_range(self, 1, 65536, "hidden", "bottleneck")


@dataclass(frozen=True, kw_only=True)
class Student:
    image: ImageTower = field(default_factory=ImageTower)
    text: TextTower = field(default_factory=TextTower)
    head: Head = field(default_factory=Head)


@dataclass(frozen=True, kw_only=True)
class Contrastive:
    """Image–text loss on the unmasked view, one learned temperature per CLS token."""

    weight: float = 1.0
    kind: Literal["softmax", "sigmoid"] = "softmax"
    temperature: float = 0.07
    """Starting temperature."""
    first: tuple[Granularity, ...] = ("alt",)
    """Captions CLS 1 reads, one drawn uniformly per picture and step."""
    second: tuple[Granularity, ...] = ("short", "detailed")
    """Captions CLS 2 reads."""

    def __post_init__(self) -> None:
        _check(self.weight >= 0, "weight", f"{self.weight} is negative")
        _in_range(self, 1e-4, 10.0, "temperature")
        _check(len(self.first) > 0, "first", "names no caption")
        _check(len(self.second) > 0, "second", "names no caption")


@dataclass(frozen=True, kw_only=True)
class ClsLoss:
    """Self-distillation of CLS 1 from local crops to the teacher's global view (L_DINO)."""

    weight: float = 0.0

    def __post_init__(self) -> None:
        _check(self.weight >= 0, "weight", f"{self.weight} is negative")


@dataclass(frozen=True, kw_only=True)
class Patch:
    """The loss on patches (L_iBOT, L_iBOT++)."""

    weight: float = 2.0
    supervise: Literal["masked", "visible", "all", "none"] = "all"
    """`masked` is iBOT, `all` is iBOT++."""
    target: Literal["prototypes", "features"] = "prototypes"
    normalise: Literal["per_image", "ibot_plus_visible", "sum"] = "per_image"
    """`per_image`: mean over an image's supervised patches. `ibot_plus_visible`: mean over its hidden ones plus
    `visible_weight` times the mean over its visible ones. `sum`: sum over its supervised patches."""
    visible_weight: float = 1.0
    """ibot_plus_visible: weight of the visible mean."""

    def __post_init__(self) -> None:
        _check(self.weight >= 0, "weight", f"{self.weight} is negative")
        _check(self.visible_weight >= 0, "visible_weight", f"{self.visible_weight} is negative")


@dataclass(frozen=True, kw_only=True)
class Prototypes:
    """How head outputs become distributions, and what keeps them from collapsing."""

    balance: Literal["centre", "sinkhorn"] = "centre"
    """EMA centring, or Sinkhorn–Knopp over the global batch."""
    centre_momentum: float = 0.9
    sinkhorn_iterations: int = 3
    student_temperature: float = 0.1
    teacher_temperature: float = 0.07
    teacher_temperature_start: float = 0.04
    """Rises linearly to `teacher_temperature` over `teacher_warmup` of the steps (patch loss)."""
    teacher_warmup: float = 0.1
    """Share of the steps."""

    def __post_init__(self) -> None:
        _in_range(self, 0.0, 1.0, "centre_momentum", "teacher_warmup")
        _in_range(self, 1, 100, "sinkhorn_iterations")
        _in_range(self, 1e-4, 10.0, "student_temperature", "teacher_temperature", "teacher_temperature_start")


@dataclass(frozen=True, kw_only=True)
class Features:
    """Feature targets: cosine distance to the teacher's standardised features, through an adapter."""

    cls_weight: float = 1.0
    """Weight of the CLS term beside the patch term."""
    standardise: bool = True
    """Subtract the running mean and divide by the running deviation of each teacher dimension."""
    momentum: float = 0.99
    """Of the running statistics."""

    def __post_init__(self) -> None:
        _check(self.cls_weight >= 0, "cls_weight", f"{self.cls_weight} is negative")
        _in_range(self, 0.0, 1.0, "momentum")


@dataclass(frozen=True, kw_only=True)
class Objective:
    contrastive: Contrastive = field(default_factory=Contrastive)
    cls: ClsLoss = field(default_factory=ClsLoss)
    patch: Patch = field(default_factory=Patch)
    prototypes: Prototypes = field(default_factory=Prototypes)
    features: Features = field(default_factory=Features)


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
        _check(self.lr >= 0 and math.isfinite(self.lr), "lr", f"{self.lr} is not a finite positive number")
        _in_range(self, 0.0, 1.0, "warmup", "lr_end", "layer_decay")
        _check(self.weight_decay >= 0, "weight_decay", f"{self.weight_decay} is negative")
        _check(self.head_lr_scale >= 0, "head_lr_scale", f"{self.head_lr_scale} is negative")
        _check(self.clip >= 0, "clip", f"{self.clip} is negative")
        _check(self.steps >= 1, "steps", f"{self.steps} is not positive")
        _check(self.accumulate >= 1, "accumulate", f"{self.accumulate} is not positive")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """What is measured, on held-out pictures. Never changes the training."""

    tasks: tuple[Literal["zero_shot_segmentation", "linear_segmentation", "retrieval", "knn"], ...] = ()
    every: int = 0
    """Steps between evaluations during training; 0 evaluates at the end only."""
    num_images: int = 512
    """Budget during training."""
    segmentation: str | None = None
    """Held-out pictures with masks: a folder in the layout of shared/data/coco_panoptic; scenes when not set."""
    classes: str | None = None
    """knn: image-classification folder with train/ and val/."""
    templates: Literal["plain", "tcl"] = "plain"
    features: Literal["value", "final"] = "value"
    mode: Literal["whole", "slide"] = "whole"

    def __post_init__(self) -> None:
        _check(self.every >= 0, "every", f"{self.every} is negative")
        _check(self.num_images >= 1, "num_images", f"{self.num_images} is not positive")


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
        _check(self.checkpoint_every >= 1, "checkpoint_every", f"{self.checkpoint_every} is not positive")
        _check(self.keep >= 1, "keep", f"{self.keep} is not positive")
        _check(self.log_every >= 1, "log_every", f"{self.log_every} is not positive")
        _check(self.workers >= 1, "workers", f"{self.workers} is not positive")
        _check(self.prefetch >= 1, "prefetch", f"{self.prefetch} is not positive")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run. `precision` and `compile` change the last digits of results, so they are not under `run`."""

    name: str = "unnamed"
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast where the device has it."""
    compile: bool = False
    data: Data = field(default_factory=Data)
    masking: Masking = field(default_factory=Masking)
    teacher: Teacher = field(default_factory=Teacher)
    student: Student = field(default_factory=Student)
    objective: Objective = field(default_factory=Objective)
    optim: Optim = field(default_factory=Optim)
    evaluate: Evaluate = field(default_factory=Evaluate)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        for problem in _meaningless(self):
            raise problem


def _meaningless(recipe: Recipe) -> list[InvalidCombination]:
    """Every rule about settings that mean nothing together."""
    teacher, student, objective = recipe.teacher, recipe.student, recipe.objective
    patch, masking = objective.patch, recipe.masking
    hears_patches = patch.supervise != "none" and patch.weight > 0
    rules = [
        (
            hears_patches and patch.supervise == "masked" and masking.ratio * masking.image_share == 0,
            ("objective.patch.supervise", "masking.ratio"),
            "supervise=masked hears nothing when nothing is hidden; hide patches or supervise visible or all",
        ),
        (
            teacher.kind == "frozen" and (teacher.checkpoint is None) == (teacher.model is None),
            ("teacher.checkpoint", "teacher.model"),
            "a frozen teacher needs exactly one of teacher.checkpoint and teacher.model",
        ),
        (
            teacher.kind == "momentum" and (teacher.checkpoint is not None or teacher.model is not None),
            ("teacher.kind", "teacher.checkpoint", "teacher.model"),
            "a momentum teacher follows the student and loads nothing; use teacher.kind=frozen",
        ),
        (
            (teacher.model is None) != (teacher.weights is None),
            ("teacher.model", "teacher.weights"),
            "teacher.model and teacher.weights go together: a teacher with random weights teaches nothing",
        ),
        (
            teacher.model is not None and patch.target == "prototypes" and (hears_patches or objective.cls.weight > 0),
            ("objective.patch.target", "teacher.model"),
            "a timm teacher has no projection head; use objective.patch.target=features and objective.cls.weight=0",
        ),
        (
            teacher.kind == "momentum" and patch.target == "features",
            ("objective.patch.target", "teacher.kind"),
            "feature targets of a momentum teacher collapse; use prototypes or a frozen teacher",
        ),
        (
            objective.cls.weight > 0 and recipe.data.views.num_local == 0,
            ("objective.cls.weight", "data.views.num_local"),
            "the global loss compares local crops with the teacher; set data.views.num_local",
        ),
        (
            teacher.kind == "momentum" and "teacher" in (student.image.init, student.text.init, student.head.init),
            ("student.image.init", "student.text.init", "student.head.init", "teacher.kind"),
            "a momentum teacher starts as a copy of the student; init=teacher needs teacher.kind=frozen",
        ),
        (
            student.text.kind == "none" and objective.contrastive.weight > 0,
            ("student.text.kind", "objective.contrastive.weight"),
            "the contrastive loss needs a text tower; set objective.contrastive.weight=0 or choose one",
        ),
        (
            student.text.kind == "tips" and student.text.tokenizer is None,
            ("student.text.tokenizer",),
            "the TIPS text tower needs its SentencePiece model: student.text.tokenizer=PATH",
        ),
        (
            objective.contrastive.weight == 0 and objective.cls.weight == 0 and not hears_patches,
            ("objective",),
            "every loss is switched off",
        ),
        (
            recipe.data.source == "dataset" and not recipe.data.dataset.path,
            ("data.dataset.path",),
            "data.source=dataset needs data.dataset.path",
        ),
        (
            recipe.data.batch_size % recipe.optim.accumulate != 0,
            ("data.batch_size", "optim.accumulate"),
            f"batch_size={recipe.data.batch_size} does not split into {recipe.optim.accumulate} micro-batches",
        ),
        (
            teacher.scope == "head" and teacher.kind == "frozen",
            ("teacher.scope", "teacher.kind"),
            "scope=head takes the student's own encoder, which is not frozen; use teacher.kind=momentum",
        ),
    ]
    return [InvalidCombination(keys, message) for broken, keys, message in rules if broken]
