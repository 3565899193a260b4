"""What a teacher's features teach: distances to them through adapters, and relations between the patches of an image.

Legend: B images of this rank, N patches, M tokens, D width of the student, E of the teacher.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from distill import config
from distill.contracts import Targets, Tokens
from distill.objective.adapters import Adapters
from distill.objective.features import feature_distance, resample_patches
from distill.objective.patch import (
    Supervised,
    by_sort,
    heard_sorts,
    heard_weights,
    select,
    sum_by_image,
    unheard_sorts,
    unheard_weights,
)
from distill.objective.relations import gram_loss, relational_loss
from distill.objective.standardise import Standardiser
from distill.objective.terms import Term

TURNS = 2**20
"""Progress times this is where relational distances start to take their patches: elsewhere at every step."""


class FeatureTerms(nn.Module):
    """The feature losses of one teacher, and the running statistics of its features.

    Statistics are of all the teacher's patches, heard or not. Relations are those of the student's own patches, no
    adapter between, with the teacher's standardised ones: they shape what is published. They hear the patches that
    the patch loss hears, whatever these weigh.
    """

    def __init__(
        self,
        settings: config.Objective,
        *,
        cls_standardiser: Standardiser | None,
        patch_standardiser: Standardiser | None,
        max_elements: int | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.max_elements = max_elements
        self.standardise_cls = cls_standardiser
        self.standardise_patches = patch_standardiser

    def forward(
        self,
        student: Tokens,
        targets: Targets,
        *,
        hidden: Bool[Tensor, "B N"],
        adapters: Adapters,
        progress: float,
        overhear: bool,
    ) -> list[Term]:
        """Terms patch, patch_cls (CLS 1 of the same pass), gram and rkd, those that weigh something, each by image."""
        settings = self.settings.features
        teacher_BNE = resample_patches(targets.tokens.patches, grid=targets.tokens.grid, new_grid=student.grid)
        weights_BN = heard_weights(hidden, self.settings.patch)
        wanted_ME = self._standardised(self.standardise_patches, teacher_BNE.flatten(0, 1))
        terms = []
        if settings.patch_weight > 0:
            terms.append(self._patch_term(student, wanted_ME, weights_BN, hidden, adapters, overhear))
        if settings.cls_weight > 0:
            terms.append(self._cls_term(student, targets, adapters))
        wanted_BNE = wanted_ME.unflatten(0, teacher_BNE.shape[:2])
        return terms + self._relations(student.patches, wanted_BNE, weights_BN > 0, progress)

    def step(self) -> None:
        """Once per optimiser step, on every rank: the statistics take in what was observed."""
        for standardiser in (self.standardise_cls, self.standardise_patches):
            if standardiser is not None:
                standardiser.step()

    def _patch_term(
        self,
        student: Tokens,
        wanted_ME: Float[Tensor, "M E"],
        weights_BN: Float[Tensor, "B N"],
        hidden: Bool[Tensor, "B N"],
        adapters: Adapters,
        overhear: bool,
    ) -> Term:
        patch = self.settings.patch
        heard, distance_M = self._distances(student, wanted_ME, weights_BN, adapters)
        by_image = sum_by_image(heard.weights * distance_M, heard.index, shape=weights_BN.shape)
        sorts = by_sort(distance_M.detach(), hidden, heard.index, sorts=heard_sorts(patch))
        if overhear and unheard_sorts(patch):
            with torch.no_grad():
                others, distance_M = self._distances(student, wanted_ME, unheard_weights(hidden, patch), adapters)
                sorts |= by_sort(distance_M, hidden, others.index, sorts=unheard_sorts(patch))
        return self._term("patch", self.settings.features.patch_weight, by_image, sorts)

    def _distances(
        self, student: Tokens, wanted_ME: Tensor, weights_BN: Tensor, adapters: Adapters
    ) -> tuple[Supervised, Tensor]:
        """The patches with weight, and how far each is from what it should be."""
        chosen = select(student.patches, weights_BN)
        layers = [layer_BND.flatten(0, 1).index_select(0, chosen.index) for layer_BND in adapters.heard(student.layers)]
        prediction_ME = adapters.patches(chosen.tokens, layers)
        return chosen, feature_distance(prediction_ME, wanted_ME[chosen.index], kind=self.settings.features.loss)

    def _cls_term(self, student: Tokens, targets: Targets, adapters: Adapters) -> Term:
        settings = self.settings.features
        wanted_BE = self._standardised(self.standardise_cls, targets.tokens.cls[:, 0])
        distance_B = feature_distance(adapters.cls(student.cls[:, 0]), wanted_BE, kind=settings.loss)
        return self._term("patch_cls", settings.cls_weight, distance_B / len(distance_B))

    def _relations(
        self,
        student_BND: Float[Tensor, "B N D"],
        wanted_BNE: Float[Tensor, "B N E"],
        chosen_BN: Bool[Tensor, "B N"],
        progress: float,
    ) -> list[Term]:
        settings, terms = self.settings.features, []
        if settings.gram_weight > 0:
            loss_B = gram_loss(student_BND, wanted_BNE, chosen_BN, max_elements=self.max_elements)
            terms.append(self._term("gram", settings.gram_weight, loss_B / len(loss_B)))
        if settings.rkd_weight > 0:
            turn = int(progress * TURNS)
            loss_B = relational_loss(student_BND, wanted_BNE, chosen_BN, turn=turn, max_elements=self.max_elements)
            terms.append(self._term("rkd", settings.rkd_weight, loss_B / len(loss_B)))
        return terms

    def _term(
        self, name: str, weight: float, by_image_B: Float[Tensor, " B"], diagnostics: dict[str, Tensor] | None = None
    ) -> Term:
        return Term(name, self.settings.patch.weight * weight, by_image_B.sum(), diagnostics or {}, by_image_B)

    def _standardised(self, standardiser: Standardiser | None, features_ME: Tensor) -> Tensor:
        if standardiser is None:
            return features_ME
        if self.training:
            standardiser.observe(features_ME)
        return standardiser(features_ME)
