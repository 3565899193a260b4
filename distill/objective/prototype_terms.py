"""What a teacher's distribution over prototypes teaches: L_DINO on CLS 1, and the patch losses of iBOT and iBOT++.

Legend: B images of this rank, N patches, L local crops, M tokens, D width, E of the teacher, d bottleneck,
K prototypes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from distill import config
from distill.contracts import Predictions, Targets, Tokens
from distill.objective.balance import Balance
from distill.objective.clusters import Clusters
from distill.objective.features import resample_patches
from distill.objective.patch import by_sort, heard_sorts, heard_weights, select, unheard_sorts, unheard_weights
from distill.objective.prototypes import Head, Target, TokenLoss, bottleneck, chunk_rows, prototype_cross_entropy
from distill.objective.terms import Term

Role = Literal["cls", "patch"]


@runtime_checkable
class Heads(Protocol):
    """Projection heads of a student or a teacher; the two may be one module."""

    cls: Head
    patch: Head


@dataclass(frozen=True)
class TargetFeatures:
    """A teacher's bottleneck features: CLS 1, and the patches that are heard, or all where clusters are fitted to
    them. None for a loss that is not there."""

    cls: Float[Tensor, "B d"] | None
    patch: Float[Tensor, "M d"] | None


@dataclass(frozen=True)
class Offsets:
    """The offsets of `distill.objective.balance`; None for a loss that is not there."""

    cls: Float[Tensor, " K"] | None
    patch: Float[Tensor, " K"] | None


class PrototypeTerms(nn.Module):
    """The two cross-entropies of one teacher, and the running state behind their targets.

    With clusters the teacher's heads are not asked: `Clusters` of its CLS tokens and of its patches take their place.
    Those of patches are fitted to every patch, heard or not, so that the targets of two recipes that differ in
    `supervise` alone are the same.
    """

    def __init__(
        self,
        settings: config.Objective,
        *,
        num_prototypes: int,
        with_patches: bool,
        cls_clusters: Clusters | None = None,
        patch_clusters: Clusters | None = None,
        max_elements: int | None = None,
    ) -> None:
        """`with_patches`: whether the patch loss is one of prototypes. `max_elements` bounds a chunk's logits."""
        super().__init__()
        self.settings = settings
        self.num_prototypes = num_prototypes
        self.max_elements = max_elements
        self.cls_balance = self._balance() if settings.cls.weight > 0 else None
        self.patch_balance = self._balance() if with_patches else None
        self.cls_clusters = cls_clusters
        self.patch_clusters = patch_clusters

    def _balance(self) -> Balance:
        prototypes = self.settings.prototypes
        return Balance(
            self.num_prototypes,
            kind=prototypes.balance,
            momentum=prototypes.centre_momentum,
            iterations=prototypes.sinkhorn_iterations,
        )

    def forward(
        self,
        predictions: Predictions,
        targets: Targets,
        *,
        hidden: Bool[Tensor, "B N"],
        heads: Heads,
        progress: float,
        offsets: Offsets | None,
        overhear: bool,
    ) -> list[Term]:
        """Terms cls and patch. For the arguments see `distill.objective.transfer`."""
        terms: list[Term] = []
        student = predictions.unmasked if predictions.masked is None else predictions.masked
        grid = None if student is None else student.grid
        features = self.target_features(targets, hidden=hidden, grid=grid)
        if offsets is None:
            offsets = self.offsets([features], heads=targets.heads, progress=progress)
        if self.training:
            self._fit_clusters(targets, features, offsets, grid=grid, progress=progress)
        if self.cls_balance is not None:
            target = self._target("cls", features.cls, offsets.cls, targets, temperature=self._temperature())
            terms.append(self._cls_term(predictions.local_cls, heads.cls, target))
        if self.patch_balance is not None:
            heard = select(student.patches, heard_weights(hidden, self.settings.patch))
            wanted = features.patch if self.patch_clusters is None else features.patch[heard.index]
            target = self._target("patch", wanted, offsets.patch, targets, temperature=self._temperature(progress))
            loss = self._cross_entropy(heard.tokens, heard.weights, heads.patch, target)
            sorts = by_sort(loss.per_token, hidden, heard.index, sorts=heard_sorts(self.settings.patch))
            if overhear and unheard_sorts(self.settings.patch):
                sorts |= self._overheard(student, targets, features, hidden, heads.patch, target)
            terms.append(Term("patch", self.settings.patch.weight, loss.loss, sorts))
        return terms

    def target_features(
        self, targets: Targets, *, hidden: Bool[Tensor, "B N"], grid: tuple[int, int] | None
    ) -> TargetFeatures:
        """What the teacher's heads, or the clusters, make of its tokens, with history only for a teacher that learns.
        `grid` is the student's."""
        cls = patch = None
        with torch.set_grad_enabled(torch.is_grad_enabled() and targets.gradient > 0):
            if self.cls_balance is not None:
                cls = self._bottleneck("cls", targets.tokens.cls[:, 0], targets.heads)
            if self.patch_balance is not None:
                weights_BN = heard_weights(hidden, self.settings.patch)
                if self.patch_clusters is not None:
                    weights_BN = torch.ones_like(weights_BN)
                patch = self._patch_features(targets, weights_BN, grid=grid)
        return TargetFeatures(cls=cls, patch=patch)

    def _patch_features(self, targets: Targets, weights_BN: Tensor, *, grid: tuple[int, int] | None) -> Tensor:
        """The teacher's bottleneck features of the patches with weight."""
        return self._bottleneck("patch", select(_on(grid, targets.tokens), weights_BN).tokens, targets.heads)

    def _bottleneck(self, role: Role, tokens_ME: Tensor, heads: Heads | None) -> Tensor:
        rows = chunk_rows(self.num_prototypes, device=tokens_ME.device, max_elements=self.max_elements)
        return bottleneck(tokens_ME, head=self._head(role, heads), rows=rows)

    def _head(self, role: Role, heads: Heads | None) -> Head:
        """The clusters of a role, or the teacher's head for it."""
        clusters = self.cls_clusters if role == "cls" else self.patch_clusters
        if clusters is not None:
            return clusters
        return heads.cls if role == "cls" else heads.patch

    @torch.no_grad()
    def offsets(self, batches: Sequence[TargetFeatures], *, heads: Heads | None, progress: float) -> Offsets:
        """Offsets for one optimiser step from all of its micro-batches (and, inside, all ranks)."""
        cls = patch = None
        if self.cls_balance is not None:
            features = [batch.cls for batch in batches]
            cls = self._offset(self.cls_balance, features, self._head("cls", heads), self._temperature())
        if self.patch_balance is not None:
            features = [batch.patch for batch in batches]
            patch = self._offset(self.patch_balance, features, self._head("patch", heads), self._temperature(progress))
        return Offsets(cls=cls, patch=patch)

    def step(self) -> None:
        """Once per optimiser step, on every rank: centres and clusters take in what was observed."""
        for part in (self.cls_balance, self.patch_balance, self.cls_clusters, self.patch_clusters):
            if part is not None:
                part.step()

    def _offset(self, balance: Balance, features: list[Tensor], head: Head, temperature: float) -> Tensor:
        return balance.offset(
            torch.cat(features),
            prototypes_Kd=head.prototypes().detach(),
            temperature=temperature,
            max_elements=self.max_elements,
        )

    def _fit_clusters(
        self,
        targets: Targets,
        features: TargetFeatures,
        offsets: Offsets,
        *,
        grid: tuple[int, int] | None,
        progress: float,
    ) -> None:
        if self.cls_clusters is not None:
            self.cls_clusters.observe(
                targets.tokens.cls[:, 0],
                features.cls,
                offset_K=offsets.cls,
                temperature=self._temperature(),
                max_elements=self.max_elements,
            )
        if self.patch_clusters is not None:
            self.patch_clusters.observe(
                _on(grid, targets.tokens).flatten(0, 1),
                features.patch,
                offset_K=offsets.patch,
                temperature=self._temperature(progress),
                max_elements=self.max_elements,
            )

    def _target(self, role: Role, features: Tensor, offset: Tensor, targets: Targets, *, temperature: float) -> Target:
        prototypes_Kd = self._head(role, targets.heads).prototypes()
        balance = self.cls_balance if role == "cls" else self.patch_balance
        if self.training:
            balance.observe(features, prototypes_Kd=prototypes_Kd)
        return Target(features, prototypes_Kd, offset, temperature, targets.gradient)

    def _temperature(self, progress: float = 1.0) -> float:
        """The teacher's: risen linearly at `progress` for patches, constant for CLS (tipsv2.md section 2)."""
        prototypes = self.settings.prototypes
        risen = 1.0 if progress >= prototypes.teacher_warmup else progress / prototypes.teacher_warmup
        start, end = prototypes.teacher_temperature_start, prototypes.teacher_temperature
        return start + risen * (end - start)

    def _cross_entropy(self, tokens_MD: Tensor, weights_M: Tensor, head: Head, target: Target) -> TokenLoss:
        return prototype_cross_entropy(
            tokens_MD,
            student_head=head,
            target=target,
            student_temperature=self.settings.prototypes.student_temperature,
            weights_M=weights_M,
            max_elements=self.max_elements,
        )

    def _cls_term(self, local_LBD: Tensor, head: Head, target: Target) -> Term:
        """L_DINO: CLS 1 of every local crop against the teacher's CLS 1, mean over crops and images."""
        num_crops, num_images = local_LBD.shape[:2]
        weights_M = torch.full((num_crops * num_images,), 1 / (num_crops * num_images), device=local_LBD.device)
        repeated = replace(target, features=target.features.repeat(num_crops, 1))
        loss = self._cross_entropy(local_LBD.flatten(0, 1), weights_M, head, repeated)
        return Term("cls", self.settings.cls.weight, loss.loss)

    @torch.no_grad()
    def _overheard(
        self,
        student: Tokens,
        targets: Targets,
        features: TargetFeatures,
        hidden_BN: Tensor,
        head: Head,
        target: Target,
    ) -> dict[str, Tensor]:
        """Diagnostics of the patches that are not supervised, against targets with the supervised ones' offset."""
        weights_BN = unheard_weights(hidden_BN, self.settings.patch)
        unheard = select(student.patches, weights_BN)
        if self.patch_clusters is None:
            wanted = self._patch_features(targets, weights_BN, grid=student.grid)
        else:
            wanted = features.patch[unheard.index]
        loss = self._cross_entropy(unheard.tokens, unheard.weights, head, replace(target, features=wanted))
        return by_sort(loss.per_token, hidden_BN, unheard.index, sorts=unheard_sorts(self.settings.patch))


def _on(grid: tuple[int, int], tokens: Tokens) -> Float[Tensor, "B N E"]:
    """The teacher's patches on another grid."""
    return resample_patches(tokens.patches, grid=tokens.grid, new_grid=grid)
