"""The whole loss of one batch: contrast + alpha * L_DINO + beta * L_iBOT(++), or feature targets for the patches.

Legend: B images of this rank, N patches, C CLS tokens, L local crops, M tokens, D width, d bottleneck, K prototypes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from distill import config
from distill.contracts import Losses, Predictions, Targets, Tokens
from distill.objective.balance import Balance
from distill.objective.contrastive import Temperatures, contrastive_loss
from distill.objective.features import Adapters, Standardiser, cosine_distance, resample_patches
from distill.objective.patch import mean_where, patch_weights, select
from distill.objective.prototypes import Head, Target, TokenLoss, bottleneck, chunk_rows, prototype_cross_entropy

CONTRAST_NAMES = ("contrastive/first", "contrastive/second")
SORTS = ("hidden", "visible")


@runtime_checkable
class Heads(Protocol):
    """Projection heads of a student or a teacher; the two may be one module."""

    cls: Head
    patch: Head


@dataclass(frozen=True)
class TargetFeatures:
    """A teacher's bottleneck features of what the losses hear; None for a loss without prototypes."""

    cls: Float[Tensor, "B d"] | None
    patch: Float[Tensor, "M d"] | None


@dataclass(frozen=True)
class Offsets:
    """The offsets of `distill.objective.balance`; None for a loss without prototypes."""

    cls: Float[Tensor, " K"] | None
    patch: Float[Tensor, " K"] | None


@dataclass(frozen=True)
class _Term:
    name: str
    weight: float
    value: Tensor
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """Losses of a recipe, and the running statistics their targets need.

    It holds no parameters: heads, temperatures and adapters are given. Its buffers (centres, feature statistics)
    belong into checkpoints. They move in `step`, once per optimiser step; nothing is observed in eval mode.
    A loss with weight 0, or patches with supervise=none, costs nothing.
    """

    def __init__(
        self,
        settings: config.Objective,
        *,
        num_prototypes: int,
        teacher_width: int | None = None,
        max_elements: int | None = None,
    ) -> None:
        """`teacher_width` is needed for standardised feature targets; `max_elements` bounds a chunk's logits."""
        super().__init__()
        self.settings = settings
        self.num_prototypes = num_prototypes
        self.max_elements = max_elements
        patch = settings.patch
        hears_patches = patch.weight > 0 and patch.supervise != "none"
        self.with_cls = settings.cls.weight > 0
        self.with_prototypes = hears_patches and patch.target == "prototypes"
        self.with_features = hears_patches and patch.target == "features"
        self.cls_balance = self._balance() if self.with_cls else None
        self.patch_balance = self._balance() if self.with_prototypes else None
        self.standardise_cls = self._standardiser(teacher_width)
        self.standardise_patches = self._standardiser(teacher_width)

    def _balance(self) -> Balance:
        prototypes = self.settings.prototypes
        return Balance(
            self.num_prototypes,
            kind=prototypes.balance,
            momentum=prototypes.centre_momentum,
            iterations=prototypes.sinkhorn_iterations,
        )

    def _standardiser(self, teacher_width: int | None) -> Standardiser | None:
        if not (self.with_features and self.settings.features.standardise):
            return None
        if teacher_width is None:
            raise ValueError("standardised feature targets need the teacher's width")
        return Standardiser(teacher_width, momentum=self.settings.features.momentum)

    def forward(
        self,
        predictions: Predictions,
        targets: Targets | None,
        *,
        hidden: Bool[Tensor, "B N"],
        heads: Heads | None = None,
        temperatures: Temperatures | None = None,
        adapters: Adapters | None = None,
        progress: float,
        offsets: Offsets | None = None,
        overhear: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> Losses:
        """Everything at once: `contrast` plus `distillation`, whose arguments these are."""
        contrast = self.contrast(predictions, temperatures=temperatures, rank=rank, world=world)
        distillation = self.distillation(
            predictions,
            targets,
            hidden=hidden,
            heads=heads,
            adapters=adapters,
            progress=progress,
            offsets=offsets,
            overhear=overhear,
        )
        return Losses(
            total=contrast.total + distillation.total,
            terms=contrast.terms | distillation.terms,
            diagnostics=contrast.diagnostics | distillation.diagnostics,
        )

    def contrast(
        self, predictions: Predictions, *, temperatures: Temperatures | None, rank: int = 0, world: int = 1
    ) -> Losses:
        """weight * mean over captions of the contrastive losses: terms contrastive/first, contrastive/second."""
        settings = self.settings.contrastive
        if settings.weight == 0:
            return _add_up([])
        losses_C = contrastive_loss(
            predictions.unmasked.cls,
            predictions.text,
            temperatures=temperatures,
            kind=settings.kind,
            rank=rank,
            world=world,
        )
        share = settings.weight / len(losses_C)
        names = CONTRAST_NAMES[: len(losses_C)]
        return _add_up([_Term(name, share, loss) for name, loss in zip(names, losses_C, strict=True)])

    def distillation(
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
        """alpha * L_DINO + beta * patch loss: terms cls, patch and, with feature targets, patch_cls, all unweighted.

        `progress` in [0, 1] is the share of the training that is done. `targets` may be None when nothing here is
        heard. `offsets` defaults to this batch's own; with Sinkhorn and several micro-batches, compute them once
        from all of them (`target_features`, then `offsets`). Diagnostics patch/hidden and patch/visible are the mean
        loss per token of that sort, nan where the batch has none: of supervised tokens, and with `overhear` also of
        those that nobody learns from (the paper's Figure 2 shows both), for one more pass of them through the heads.
        """
        terms: list[_Term] = []
        if not (self.with_cls or self.with_prototypes or self.with_features):
            return _add_up(terms)
        student = predictions.unmasked if predictions.masked is None else predictions.masked
        if self.with_features:
            terms += self._feature_terms(student, targets, hidden, adapters, overhear=overhear)
        if self.with_cls or self.with_prototypes:
            features = self.target_features(targets, hidden=hidden, grid=_grid(student))
            offsets = self.offsets([features], heads=targets.heads, progress=progress) if offsets is None else offsets
        if self.with_cls:
            target = self._target(
                features.cls, targets.heads.cls, self.cls_balance, offsets.cls, self._temperature(), targets.gradient
            )
            terms.append(self._cls_term(predictions.local_cls, heads.cls, target))
        if self.with_prototypes:
            temperature = self._temperature(progress)
            target = self._target(
                features.patch, targets.heads.patch, self.patch_balance, offsets.patch, temperature, targets.gradient
            )
            term = self._patch_term(student, hidden, heads.patch, target)
            if overhear and self._unheard_sorts():
                term.diagnostics.update(self._overheard(student, targets, hidden, heads.patch, target))
            terms.append(term)
        return _add_up(terms)

    def target_features(
        self, targets: Targets, *, hidden: Bool[Tensor, "B N"], grid: tuple[int, int] | None
    ) -> TargetFeatures:
        """What the teacher's heads make of CLS 1 and of the supervised patches, with history only for a teacher that
        learns. `grid` is the student's."""
        cls = patch = None
        with torch.set_grad_enabled(torch.is_grad_enabled() and targets.gradient > 0):
            if self.with_cls:
                rows = chunk_rows(self.num_prototypes, device=hidden.device, max_elements=self.max_elements)
                cls = bottleneck(targets.tokens.cls[:, 0], head=targets.heads.cls, rows=rows)
            if self.with_prototypes:
                patch = self._patch_features(targets, self._patch_weights(hidden), grid=grid)
        return TargetFeatures(cls=cls, patch=patch)

    def _patch_features(self, targets: Targets, weights_BN: Tensor, *, grid: tuple[int, int] | None) -> Tensor:
        """The teacher's bottleneck features of the patches with weight."""
        tokens_BND = resample_patches(targets.tokens.patches, grid=targets.tokens.grid, new_grid=grid)
        rows = chunk_rows(self.num_prototypes, device=weights_BN.device, max_elements=self.max_elements)
        return bottleneck(select(tokens_BND, weights_BN).tokens, head=targets.heads.patch, rows=rows)

    @torch.no_grad()
    def offsets(self, batches: Sequence[TargetFeatures], *, heads: Heads, progress: float) -> Offsets:
        """Offsets for one optimiser step from all of its micro-batches (and, inside, all ranks)."""
        cls = patch = None
        if self.with_cls:
            cls = self._offset(self.cls_balance, [batch.cls for batch in batches], heads.cls, self._temperature())
        if self.with_prototypes:
            features = [batch.patch for batch in batches]
            patch = self._offset(self.patch_balance, features, heads.patch, self._temperature(progress))
        return Offsets(cls=cls, patch=patch)

    def step(self) -> None:
        """Once per optimiser step, on every rank: centres and feature statistics take in what was observed."""
        for part in (self.cls_balance, self.patch_balance, self.standardise_cls, self.standardise_patches):
            if part is not None:
                part.step()

    def _offset(self, balance: Balance, features: list[Tensor], head: Head, temperature: float) -> Tensor:
        return balance.offset(
            torch.cat(features),
            prototypes_Kd=head.prototypes().detach(),
            temperature=temperature,
            max_elements=self.max_elements,
        )

    def _target(
        self, features: Tensor, head: Head, balance: Balance, offset: Tensor, temperature: float, gradient: float
    ) -> Target:
        prototypes_Kd = head.prototypes()
        if self.training:
            balance.observe(features, prototypes_Kd=prototypes_Kd)
        return Target(features, prototypes_Kd, offset, temperature, gradient)

    def _temperature(self, progress: float = 1.0) -> float:
        """The teacher's: risen linearly at `progress` for patches, constant for CLS (tipsv2.md section 2)."""
        prototypes = self.settings.prototypes
        risen = 1.0 if progress >= prototypes.teacher_warmup else progress / prototypes.teacher_warmup
        start, end = prototypes.teacher_temperature_start, prototypes.teacher_temperature
        return start + risen * (end - start)

    def _patch_weights(self, hidden_BN: Tensor) -> Tensor:
        patch = self.settings.patch
        return patch_weights(
            hidden_BN, supervise=patch.supervise, normalise=patch.normalise, visible_weight=patch.visible_weight
        )

    def _cross_entropy(self, tokens_MD: Tensor, weights_M: Tensor, head: Head, target: Target) -> TokenLoss:
        return prototype_cross_entropy(
            tokens_MD,
            student_head=head,
            target=target,
            student_temperature=self.settings.prototypes.student_temperature,
            weights_M=weights_M,
            max_elements=self.max_elements,
        )

    def _cls_term(self, local_LBD: Tensor, head: Head, target: Target) -> _Term:
        """L_DINO: CLS 1 of every local crop against the teacher's CLS 1, mean over crops and images."""
        num_crops, num_images = local_LBD.shape[:2]
        weights_M = torch.full((num_crops * num_images,), 1 / (num_crops * num_images), device=local_LBD.device)
        repeated = replace(target, features=target.features.repeat(num_crops, 1))
        loss = self._cross_entropy(local_LBD.flatten(0, 1), weights_M, head, repeated)
        return _Term("cls", self.settings.cls.weight, loss.loss)

    def _patch_term(self, student: Tokens, hidden_BN: Tensor, head: Head, target: Target) -> _Term:
        """L_iBOT, L_iBOT++ and their relatives, on prototypes."""
        supervised = select(student.patches, self._patch_weights(hidden_BN))
        loss = self._cross_entropy(supervised.tokens, supervised.weights, head, target)
        heard = _by_sort(loss, hidden_BN, supervised.index, sorts=self._heard_sorts())
        return _Term("patch", self.settings.patch.weight, loss.loss, heard)

    @torch.no_grad()
    def _overheard(
        self, student: Tokens, targets: Targets, hidden_BN: Tensor, head: Head, target: Target
    ) -> dict[str, Tensor]:
        """Diagnostics of the patches that are not supervised, against targets with the supervised ones' offset."""
        weights_BN = _unheard(self._patch_weights(hidden_BN))
        features = self._patch_features(targets, weights_BN, grid=student.grid)
        unheard = select(student.patches, weights_BN)
        loss = self._cross_entropy(unheard.tokens, unheard.weights, head, replace(target, features=features))
        return _by_sort(loss, hidden_BN, unheard.index, sorts=self._unheard_sorts())

    def _feature_terms(
        self, student: Tokens, targets: Targets, hidden_BN: Tensor, adapters: Adapters, *, overhear: bool
    ) -> list[_Term]:
        """Cosine distances of patches, and of CLS 1 of the same pass, to the teacher's features."""
        settings, weight = self.settings.features, self.settings.patch.weight
        teacher_BND = resample_patches(targets.tokens.patches, grid=targets.tokens.grid, new_grid=student.grid)
        supervised = select(student.patches, self._patch_weights(hidden_BN))
        wanted_MD = self._standardised(self.standardise_patches, teacher_BND.flatten(0, 1))
        patches = cosine_distance(
            adapters.patch(supervised.tokens), wanted_MD[supervised.index], weights_M=supervised.weights
        )
        sorts = _by_sort(patches, hidden_BN, supervised.index, sorts=self._heard_sorts())
        if overhear and self._unheard_sorts():
            with torch.no_grad():
                unheard = select(student.patches, _unheard(self._patch_weights(hidden_BN)))
                prediction_MD = adapters.patch(unheard.tokens)
                loss = cosine_distance(prediction_MD, wanted_MD[unheard.index], weights_M=unheard.weights)
                sorts |= _by_sort(loss, hidden_BN, unheard.index, sorts=self._unheard_sorts())
        terms = [_Term("patch", weight, patches.loss, sorts)]
        if settings.cls_weight > 0:
            wanted_BD = self._standardised(self.standardise_cls, targets.tokens.cls[:, 0])
            weights_B = torch.full((len(wanted_BD),), 1 / len(wanted_BD), device=wanted_BD.device)
            distance = cosine_distance(adapters.cls(student.cls[:, 0]), wanted_BD, weights_M=weights_B)
            terms.append(_Term("patch_cls", weight * settings.cls_weight, distance.loss))
        return terms

    def _standardised(self, standardiser: Standardiser | None, features_MD: Tensor) -> Tensor:
        if standardiser is None:
            return features_MD
        if self.training:
            standardiser.observe(features_MD)
        return standardiser(features_MD)

    def _heard_sorts(self) -> tuple[str, ...]:
        return {"masked": ("hidden",), "visible": ("visible",), "all": SORTS}[self.settings.patch.supervise]

    def _unheard_sorts(self) -> tuple[str, ...]:
        return tuple(sort for sort in SORTS if sort not in self._heard_sorts())


def _by_sort(loss: TokenLoss, hidden_BN: Tensor, index_M: Tensor, *, sorts: tuple[str, ...]) -> dict[str, Tensor]:
    hidden_M = hidden_BN.flatten()[index_M]
    chosen = {"hidden": hidden_M, "visible": ~hidden_M}
    return {f"patch/{sort}": mean_where(loss.per_token, chosen[sort]) for sort in sorts}


def _unheard(weights_BN: Tensor) -> Tensor:
    """Weight 1 on every patch that has none."""
    return (weights_BN == 0).float()


def _grid(student: Tokens | None) -> tuple[int, int] | None:
    """The student's patch grid; None when only local crops are heard."""
    return None if student is None else student.grid


def _add_up(terms: list[_Term]) -> Losses:
    return Losses(
        total=sum((term.weight * term.value for term in terms), start=torch.zeros(())),
        terms={term.name: term.value.detach() for term in terms},
        diagnostics={name: value for term in terms for name, value in term.diagnostics.items()},
    )
