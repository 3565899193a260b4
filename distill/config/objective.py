"""Settings of the losses, one class per term."""

from dataclasses import dataclass, field
from typing import Literal

from distill.config.checks import check, in_range

Granularity = Literal["alt", "short", "detailed"]


@dataclass(frozen=True, kw_only=True)
class Contrastive:
    """Image–text loss on the unmasked view, one learned temperature per CLS token."""

    weight: float = 1.0
    kind: Literal["softmax", "sigmoid"] = "softmax"
    temperature: float | None = 0.07
    """Starting temperature, in [0.01, 1]; null: the one that the teacher learnt."""
    first: tuple[Granularity, ...] = ("alt",)
    """Captions CLS 1 reads, one drawn uniformly per picture and step."""
    second: tuple[Granularity, ...] = ("short", "detailed")
    """Captions CLS 2 reads."""

    def __post_init__(self) -> None:
        check(self.weight >= 0, "weight", f"{self.weight} is negative")
        if self.temperature is not None:
            in_range(self, 1e-4, 10.0, "temperature")
        check(len(self.first) > 0, "first", "names no caption")
        check(len(self.second) > 0, "second", "names no caption")


@dataclass(frozen=True, kw_only=True)
class ClsLoss:
    """Self-distillation of CLS 1 from local crops to the teacher's global view (L_DINO)."""

    weight: float = 0.0

    def __post_init__(self) -> None:
        check(self.weight >= 0, "weight", f"{self.weight} is negative")


@dataclass(frozen=True, kw_only=True)
class Patch:
    """The loss on patches (L_iBOT, L_iBOT++)."""

    weight: float = 2.0
    supervise: Literal["masked", "visible", "all", "none"] = "all"
    """`masked` is iBOT, `all` is iBOT++."""
    target: Literal["prototypes", "features", "clusters"] = "prototypes"
    """What the student foretells: the teacher's head's distribution over its prototypes, the teacher's features, or
    their distribution over clusters that are fitted to them; the last two need no teacher's head."""
    normalise: Literal["per_image", "ibot_plus_visible", "sum"] = "per_image"
    """`per_image`: mean over an image's supervised patches. `ibot_plus_visible`: mean over its hidden ones plus
    `visible_weight` times the mean over its visible ones. `sum`: sum over its supervised patches."""
    visible_weight: float = 1.0
    """ibot_plus_visible: weight of the visible mean."""

    def __post_init__(self) -> None:
        check(self.weight >= 0, "weight", f"{self.weight} is negative")
        check(self.visible_weight >= 0, "visible_weight", f"{self.visible_weight} is negative")


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
        in_range(self, 0.0, 1.0, "centre_momentum", "teacher_warmup")
        in_range(self, 1, 100, "sinkhorn_iterations")
        in_range(self, 1e-4, 10.0, "student_temperature", "teacher_temperature", "teacher_temperature_start")


@dataclass(frozen=True, kw_only=True)
class Features:
    """Feature targets: distance to the teacher's standardised features, through an adapter.

    `standardise` and `momentum` are also heard by clusters, which are fitted to the same standardised features.
    """

    loss: Literal["cosine", "smooth_l1", "cosine_smooth_l1"] = "cosine"
    """Distance of a token: 1 - cosine; smooth L1, mean over the dimensions; or the mean of the two (UNIC)."""
    patch_weight: float = 1.0
    """Weight of the distance of patches; 0 leaves the terms below."""
    cls_weight: float = 1.0
    """Weight of the CLS term beside the patch term."""
    gram_weight: float = 0.0
    """Weight, beside the patch term, of the squared difference of the cosines between an image's patches (DINOv3)."""
    rkd_weight: float = 0.0
    """Weight, beside the patch term, of relational distances and angles between an image's patches (RKD)."""
    standardise: Literal["none", "mean_std", "phi_s"] = "mean_std"
    """`mean_std`: every teacher dimension to mean 0 and deviation 1, by running statistics. `phi_s`: a rotation after
    which all dimensions have one variance, and one scale for all (PHI-S): distances stay what they were."""
    momentum: float = 0.99
    """Of the running statistics."""
    adapter: Literal["linear", "mlp"] = "linear"
    """From the student's width to the teacher's; `mlp`: linear, GELU, linear. It stays behind when the student goes."""
    adapter_hidden: int | None = None
    """mlp: width between the two layers; the teacher's width when not set."""
    student_layers: tuple[int, ...] = ()
    """Earlier blocks of the student, counted from 1, whose patches add to the prediction through adapters of their own
    (the ladder of UNIC)."""

    def __post_init__(self) -> None:
        for key in ("patch_weight", "cls_weight", "gram_weight", "rkd_weight"):
            check(getattr(self, key) >= 0, key, f"{getattr(self, key)} is negative")
        check(self.weight > 0, "patch_weight", "is 0, and so are the weights of all other terms")
        in_range(self, 0.0, 1.0, "momentum")
        if self.adapter_hidden is not None:
            in_range(self, 1, 65536, "adapter_hidden")
        check(all(layer >= 1 for layer in self.student_layers), "student_layers", "counts blocks from 1")
        check(len(set(self.student_layers)) == len(self.student_layers), "student_layers", "names a block twice")
        check(self.patch_weight > 0 or not self.student_layers, "student_layers", "is heard by the patch term only")

    @property
    def weight(self) -> float:
        """Of all terms together."""
        return self.patch_weight + self.cls_weight + self.gram_weight + self.rkd_weight


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Clusters of the teacher's features: as many as the student's head has prototypes."""

    momentum: float = 0.99
    """Of the centroids: share of the running sums that a step keeps."""

    def __post_init__(self) -> None:
        in_range(self, 0.0, 1.0, "momentum")


@dataclass(frozen=True, kw_only=True)
class Objective:
    contrastive: Contrastive = field(default_factory=Contrastive)
    cls: ClsLoss = field(default_factory=ClsLoss)
    patch: Patch = field(default_factory=Patch)
    prototypes: Prototypes = field(default_factory=Prototypes)
    features: Features = field(default_factory=Features)
    clusters: Clusters = field(default_factory=Clusters)
