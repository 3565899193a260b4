"""What a family hands over: an encoder that has learnt something, and what its makers say of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Bool
from torch import Tensor

from distill.contracts import ImageEncoder, TextEncoder
from distill.encoders.head import Heads

RANDOM = "random"
"""The `weights` of who wants a teacher that has learnt nothing, and says so."""


@dataclass(frozen=True)
class Pretrained:
    """An encoder on the CPU, with the facts that its file or its library states about it."""

    name: str
    """FAMILY:NAME as it was asked for."""
    image: ImageEncoder
    text: TextEncoder | None
    """Shares the image tower's space: cosines of its embeddings with CLS tokens mean something."""
    heads: Heads | None
    """Projection heads with prototypes; of our own trainings only, nobody else releases them."""
    image_size: int
    """Side of the square pictures it was trained on, pixels."""
    temperature: float | None
    """What the cosine of picture and text is divided by; None without a text tower or where nobody states it."""
    licence: str | None
    """As the file or the library states it; None when neither does."""
    source: str
    """Where the weights came from: a path, a hub name, or `random`."""
    files: tuple[Path, ...] = ()
    """What the weights were read from; none where they are random."""
    cls: str = "the whole picture"
    """What its CLS tokens are, in words."""
    balance: dict[str, Tensor] = field(default_factory=dict)
    """Centres that its heads were trained with, by their names in the objective."""

    @property
    def num_prototypes(self) -> int | None:
        """Of its heads; None without any."""
        return None if self.heads is None else self.heads.num_prototypes

    @property
    def num_parameters(self) -> int:
        """Of its image tower."""
        return sum(parameter.numel() for parameter in self.image.parameters())


Load = Callable[[str, str | None], Pretrained]
"""The door of a family: gets what follows the colon, and `teacher.weights`.

Raises ValueError, in one sentence, for whatever does not exist, does not fit or has no weights.
"""


def existing(path: str | Path, *, what: str) -> Path:
    """The path as it is; ValueError, naming `what` was looked for, when nothing is there."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{what}: {path} does not exist")
    return path


def sees_everything(hidden: Bool[Tensor, "B N"] | None) -> None:
    """ValueError for a tower that cannot hide patches and is asked to: teachers are shown whole pictures."""
    if hidden is not None:
        raise ValueError("this tower has no mask token: it can be a teacher, which sees everything, but no student")
