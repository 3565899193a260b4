"""Several frozen teachers of one student, each run once a step or read from its cache."""

from collections.abc import Mapping
from dataclasses import replace

from jaxtyping import Int
from torch import Tensor, nn

from distill.contracts import Batch, ImageEncoder, Lookup, ManyTargets, Predictions, Teacher
from distill.encoders.head import Heads
from teachers.cached import Cached
from teachers.frozen import Frozen

BETWEEN = "/"
"""Between a member's name and a name of what it has stored."""


class Ensemble(Teacher):
    """Says what each member says, by its name. Whom a picture hears is the losses' affair."""

    heads = None

    def __init__(self, members: Mapping[str, Frozen | Cached]):
        """Names are those of a recipe, which refuses what a module has itself."""
        super().__init__()
        self.members = nn.ModuleDict(dict(members))
        self.eval()

    def targets(self, batch: Batch, predictions: Predictions | None) -> ManyTargets:
        said = {
            name: member.targets(replace(batch, stored=_of(name, batch.stored)), predictions)
            for name, member in self.members.items()
        }
        return ManyTargets(said, draws=batch.teacher_draws)

    def lookup(self) -> Lookup | None:
        """What all members that read from a cache have stored; None where there are none."""
        lookups = {name: member.lookup() for name, member in self.members.items()}
        reading = {name: lookup for name, lookup in lookups.items() if lookup is not None}

        def gather(keys: Int[Tensor, " B"]) -> dict[str, Tensor]:
            return {
                f"{name}{BETWEEN}{key}": value
                for name, lookup in reading.items()
                for key, value in lookup(keys).items()
            }

        return gather if reading else None

    def towers(self) -> list[ImageEncoder]:
        return [tower for member in self.members.values() for tower in member.towers()]

    def follow(self, image: ImageEncoder, heads: Heads | None, *, momentum: float) -> None:
        """Stay."""


def _of(name: str, stored: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
    """What belongs to one member."""
    if stored is None:
        return None
    prefix = f"{name}{BETWEEN}"
    return {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
