"""Everything that one teacher teaches: its targets' running state, and the losses that hear them.

Legend: B images of this rank, N patches.
"""

from jaxtyping import Bool
from torch import Tensor, nn

from distill import config
from distill.contracts import Losses, Predictions, Targets
from distill.objective.adapters import Adapters
from distill.objective.clusters import Clusters
from distill.objective.feature_terms import FeatureTerms
from distill.objective.prototype_terms import Heads, Offsets, PrototypeTerms
from distill.objective.standardise import Standardiser
from distill.objective.terms import Term, add_up


class Transfer(nn.Module):
    """One teacher's distillation: alpha * L_DINO + beta * the patch loss, on prototypes, clusters or features.

    It exists once per teacher and shares nothing with another: its settings say what weighs how much, its buffers
    (centres, clusters, statistics) belong into checkpoints and move in `step`, once per optimiser step; nothing is
    observed in eval mode. It holds no parameters: heads and adapters are given. `prototypes` and `features` are None
    where no loss of theirs is heard; a loss with weight 0, or patches with supervise=none, costs nothing.
    """

    def __init__(
        self,
        settings: config.Objective,
        *,
        num_prototypes: int,
        teacher_width: int | None = None,
        seed: int = 0,
        max_elements: int | None = None,
    ) -> None:
        """`teacher_width` is needed for standardised features and for clusters, which start from `seed`;
        `max_elements` bounds a chunk's logits and matrices."""
        super().__init__()
        self.settings = settings
        self.teacher_width = teacher_width
        self.num_prototypes = num_prototypes
        patch = settings.patch
        hears_patches = patch.weight > 0 and patch.supervise != "none"
        is_clustered = patch.target == "clusters"
        self.with_cls = settings.cls.weight > 0
        self.with_prototypes = hears_patches and patch.target != "features"
        self.with_features = hears_patches and patch.target == "features"
        self.asks_teachers_heads = (self.with_cls or self.with_prototypes) and not is_clustered
        self.prototypes = self.features = None
        if self.with_cls or self.with_prototypes:
            self.prototypes = PrototypeTerms(
                settings,
                num_prototypes=num_prototypes,
                with_patches=self.with_prototypes,
                cls_clusters=self._clusters(seed) if is_clustered and self.with_cls else None,
                patch_clusters=self._clusters(seed + 1) if is_clustered and self.with_prototypes else None,
                max_elements=max_elements,
            )
        if self.with_features:
            self.features = FeatureTerms(
                settings,
                cls_standardiser=self._standardiser(),
                patch_standardiser=self._standardiser(),
                max_elements=max_elements,
            )

    def _standardiser(self) -> Standardiser | None:
        settings = self.settings.features
        if settings.standardise == "none":
            return None
        if self.teacher_width is None:
            raise ValueError("standardised feature targets need the teacher's width")
        return Standardiser(self.teacher_width, momentum=settings.momentum, kind=settings.standardise)

    def _clusters(self, seed: int) -> Clusters:
        if self.teacher_width is None:
            raise ValueError("clusters of features need the teacher's width")
        return Clusters(
            self.teacher_width,
            num_clusters=self.num_prototypes,
            momentum=self.settings.clusters.momentum,
            standardiser=self._standardiser(),
            seed=seed,
        )

    def forward(
        self,
        predictions: Predictions,
        targets: Targets | None,
        *,
        hidden: Bool[Tensor, "B N"],
        heads: Heads | None,
        adapters: Adapters | None,
        progress: float,
        offsets: Offsets | None = None,
        overhear: bool = False,
    ) -> Losses:
        """The sum of `terms`: patch, cls and, with feature targets, patch_cls, gram and rkd, all unweighted.

        `progress` in [0, 1] is the share of the training that is done. `targets` may be None when nothing here is
        heard. `offsets` defaults to this batch's own; with Sinkhorn and several micro-batches, compute them once
        from all of them (`prototypes.target_features`, then `prototypes.offsets`). Diagnostics patch/hidden and
        patch/visible are the mean loss per token of that sort, nan where the batch has none: of supervised tokens,
        and with `overhear` also of those that nobody learns from (the paper's Figure 2 shows both), for one more pass
        of them through the heads.
        """
        return add_up(
            self.terms(
                predictions,
                targets,
                hidden=hidden,
                heads=heads,
                adapters=adapters,
                progress=progress,
                offsets=offsets,
                overhear=overhear,
            )
        )

    def terms(
        self,
        predictions: Predictions,
        targets: Targets | None,
        *,
        hidden: Bool[Tensor, "B N"],
        heads: Heads | None,
        adapters: Adapters | None,
        progress: float,
        offsets: Offsets | None = None,
        overhear: bool = False,
    ) -> list[Term]:
        terms: list[Term] = []
        if self.features is not None:
            student = predictions.unmasked if predictions.masked is None else predictions.masked
            terms += self.features(
                student, targets, hidden=hidden, adapters=adapters, progress=progress, overhear=overhear
            )
        if self.prototypes is not None:
            terms += self.prototypes(
                predictions,
                targets,
                hidden=hidden,
                heads=heads,
                progress=progress,
                offsets=offsets,
                overhear=overhear,
            )
        return terms

    def step(self) -> None:
        """Once per optimiser step, on every rank: centres, clusters and statistics take in what was observed."""
        for part in (self.prototypes, self.features):
            if part is not None:
                part.step()
