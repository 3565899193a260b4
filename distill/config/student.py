"""Settings of the student: image tower, text tower and projection head."""

from dataclasses import dataclass, field
from typing import Any, Literal

from distill.config.checks import check, in_range


@dataclass(frozen=True, kw_only=True)
class ImageTower:
    """The student's image encoder. Sizes that are not set keep the model's own.

    A plain vision transformer of timm, or a convnet of timm that ends in a feature map (ConvNeXt, ResNet, MobileNet,
    EfficientNet, EfficientViT ...). A convnet's patches are the places of its last map, so its patch size is the stride
    of that map; its one CLS token is the pooled map (num_cls=1), its blocks are its stages, and hidden patches are
    painted over in the pixels with a learnt colour. Batch norms that are trained look at the whole batch: they
    exclude `optim.accumulate` and `gradient_checkpointing`, and several processes on CPUs; on GPUs they are
    synchronised. Their running statistics are those of unmasked pictures, and frozen ones keep theirs.
    """

    model: str = "timm:vit_tiny_patch16_224"
    """`timm:NAME`."""
    patch_size: int | None = None
    """Pixels. This and the next three are of transformers only; a convnet takes what it has in `extra`."""
    width: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    num_cls: Literal[1, 2] = 2
    """CLS tokens: the class token, and the first register as the second one."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the timm model, e.g. {drop_path_rate: 0.1}, or {output_stride: 16} for the denser
    map of a convnet."""
    init: str = "random"
    """`random`, `teacher`, or the path of a run or checkpoint folder."""
    update: Literal["train", "freeze", "last_k"] = "train"
    last_k: int = 0
    """update=last_k: this many last blocks, or stages of a convnet, (and the final norm) are trained."""
    gradient_checkpointing: bool = False
    lr_scale: float = 1.0

    def __post_init__(self) -> None:
        check(self.model.startswith("timm:"), "model", f"{self.model!r} does not start with 'timm:'")
        check((self.update == "last_k") == (self.last_k > 0), "last_k", "is set exactly when update=last_k")
        check(self.lr_scale >= 0, "lr_scale", f"{self.lr_scale} is negative")


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
        in_range(self, 4, 1024, "context_length")
        check(self.width % self.num_heads == 0, "width", f"{self.width} is not a multiple of num_heads")
        check((self.update == "last_k") == (self.last_k > 0), "last_k", "is set exactly when update=last_k")
        check(self.lr_scale >= 0, "lr_scale", f"{self.lr_scale} is negative")


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
        in_range(self, 2, 4_194_304, "num_prototypes")
        in_range(self, 1, 65536, "hidden", "bottleneck")


@dataclass(frozen=True, kw_only=True)
class Student:
    image: ImageTower = field(default_factory=ImageTower)
    text: TextTower = field(default_factory=TextTower)
    head: Head = field(default_factory=Head)
