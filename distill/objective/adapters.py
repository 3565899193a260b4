"""From the student's width to the teacher's.

Legend: M tokens, D width of the student, E of the teacher.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class Adapters(nn.Module):
    """Maps of one student to one teacher. They train with the student and never leave with it.

    `cls` and `patch` are linear, or with `hidden` two linear layers with GELU between them. With earlier layers of the
    student, at `places` among those that the pass kept, the prediction is a sum, patch(last) + layers[0](first) + ...,
    as in UNIC's ladder of projectors (Sariyildiz et al. 2024, arXiv 2408.05088): one loss hears it, so no layer needs a
    weight of its own. Earlier layers come as their blocks leave them, so each passes a LayerNorm first.
    """

    def __init__(
        self, student_width: int, teacher_width: int, *, hidden: int | None = None, places: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.places = tuple(places)
        self.cls = _adapter(student_width, teacher_width, hidden)
        self.patch = _adapter(student_width, teacher_width, hidden)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(student_width), _adapter(student_width, teacher_width, hidden))
            for _ in self.places
        )

    def heard(self, layers: Sequence[Tensor]) -> list[Tensor]:
        """Those of the layers which the pass kept that these adapters are for: another teacher may hear others."""
        return [layers[place] for place in self.places]

    def patches(
        self, last_MD: Float[Tensor, "M D"], layers: Sequence[Float[Tensor, "M D"]] = ()
    ) -> Float[Tensor, "M E"]:
        """The teacher's features as the student foretells them, from its last layer and the earlier ones."""
        prediction_ME = self.patch(last_MD)
        for adapter, tokens_MD in zip(self.layers, layers, strict=True):
            prediction_ME = prediction_ME + adapter(tokens_MD)
        return prediction_ME


def _adapter(student_width: int, teacher_width: int, hidden: int | None) -> nn.Module:
    if hidden is None:
        return nn.Linear(student_width, teacher_width)
    return nn.Sequential(nn.Linear(student_width, hidden), nn.GELU(), nn.Linear(hidden, teacher_width))
