"""Settings of the data: where pictures and captions come from, their views, and which patches are hidden."""

from dataclasses import dataclass, field
from typing import Literal

from distill.config.checks import check, in_range

MAX_FIXED_VIEWS = 1024
"""Global views that one sample can have."""


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """The procedural world (distill/data/scenes)."""

    tier: Literal["easy", "medium", "hard"] = "medium"
    split: Literal["standard", "compositional"] = "standard"
    """`compositional` keeps some colour–shape pairs out of training and evaluates on them."""
    world_seed: int = 0
    num_train: int = 1_000_000
    """Distinct training pictures; drawn pictures repeat after this many."""
    cache: str | None = None
    """Folder of an Arrow cache of all `num_train` pictures and captions, for machines that read faster than they draw;
    written at the start when it is not there. A picture takes four bytes a pixel; pixels are rounded to 8 bits."""

    def __post_init__(self) -> None:
        check(self.num_train >= 1, "num_train", f"{self.num_train} is not positive")


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
        check(self.shuffle_buffer >= 1, "shuffle_buffer", f"{self.shuffle_buffer} is not positive")
        in_range(self, 0.0, 1.0, "max_broken_share")


@dataclass(frozen=True, kw_only=True)
class Views:
    """How one picture becomes one global view and some local crops. Only resize, crop and flip (tipsv2.md 2)."""

    global_scale: tuple[float, float] = (1.0, 1.0)
    """Share of the picture's area that the global view shows, drawn uniformly."""
    flip: float = 0.0
    """Probability of a horizontal flip."""
    fixed: int = 0
    """0 draws a new global view at every step. K, up to 1,024: every sample has K global views, drawn once from the
    seed, and epoch e shows view e modulo K. Local crops are new at every step in any case."""
    num_local: int = 0
    local_scale: tuple[float, float] = (0.1, 0.4)
    local_size: int = 32
    """Side of a local crop, pixels."""

    def __post_init__(self) -> None:
        for key in ("global_scale", "local_scale"):
            low, high = getattr(self, key)
            check(0.0 < low <= high <= 1.0, key, f"({low}, {high}) is not 0 < low <= high <= 1")
        in_range(self, 0.0, 1.0, "flip")
        in_range(self, 0, 64, "num_local")
        in_range(self, 0, MAX_FIXED_VIEWS, "fixed")


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
        in_range(self, 8, 4096, "image_size")
        in_range(self, 1, 1_048_576, "batch_size")

    @property
    def shows_whole_scenes(self) -> bool:
        """Whether every global view is the whole picture, so that a sample has only one."""
        return self.source == "scenes" and self.views.global_scale == (1.0, 1.0) and self.views.flip == 0


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Which patches the student may not see."""

    ratio: float = 0.75
    """Share of patches hidden in a masked picture."""
    pattern: Literal["random", "block"] = "random"
    image_share: float = 1.0
    """Share of the pictures that are masked at all."""
    how: Literal["replace", "drop"] = "replace"
    """replace: a hidden patch becomes the mask token of a transformer, or a patch of the mask's colour of a convnet.
    drop: it is left out of the masked pass, which costs less; for transformers, where objective.patch.supervise=visible
    and every picture is masked."""

    def __post_init__(self) -> None:
        in_range(self, 0.0, 0.95, "ratio")
        in_range(self, 0.0, 1.0, "image_share")
