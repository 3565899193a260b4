"""Two choices inside the step, measured alone: the chunked patch loss, and plain attention on CPUs.

Legend: B images, N patches, M supervised patches, D width, d bottleneck, K prototypes.
"""

import copy
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from benchmarks.meter import Work
from distill.config import ImageTower
from distill.encoders.attention import choose_attention
from distill.encoders.head import ProjectionHead
from distill.encoders.image import build_image_tower
from distill.encoders.vit import TimmViT
from distill.objective.patch import Supervise, Supervised, patch_weights, select
from distill.objective.prototypes import Target, bottleneck, chunk_rows, prototype_cross_entropy

STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.07


@dataclass(frozen=True)
class PatchSizes:
    images: int = 4
    patches: int = 196
    width: int = 384
    hidden: int = 2048
    bottleneck: int = 256
    prototypes: int = 32_768
    hidden_share: float = 0.75


class PatchLoss:
    """Both heads, the loss and its gradients for random tokens: as the objective does it, and written out."""

    def __init__(self, sizes: PatchSizes, accelerator: Accelerator):
        torch.manual_seed(0)
        device = accelerator.device
        self.sizes, self.accelerator = sizes, accelerator
        self.head = ProjectionHead(
            width=sizes.width, hidden=sizes.hidden, bottleneck=sizes.bottleneck, num_prototypes=sizes.prototypes
        ).to(device)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        shape = (sizes.images, sizes.patches, sizes.width)
        self.tokens_BND = torch.randn(shape, device=device).requires_grad_()
        self.teacher_BND = torch.randn(shape, device=device)
        num_hidden = round(sizes.hidden_share * sizes.patches)
        self.hidden_BN = torch.rand(shape[:2], device=device).argsort(1) < num_hidden
        self.offset_K = torch.zeros(sizes.prototypes, device=device)

    def chunked(self, supervise: Supervise) -> float:
        """The project's loss."""
        with self.accelerator.autocast():
            student, teacher = self._selected(supervise)
            rows = chunk_rows(self.sizes.prototypes, device=self.tokens_BND.device)
            target = Target(
                features=bottleneck(teacher.tokens, head=self.teacher_head, rows=rows),
                prototypes=self.teacher_head.prototypes(),
                offset=self.offset_K,
                temperature=TEACHER_TEMPERATURE,
            )
            loss = prototype_cross_entropy(
                student.tokens,
                student_head=self.head,
                target=target,
                student_temperature=STUDENT_TEMPERATURE,
                weights_M=student.weights,
            ).loss
        return self._backward(loss)

    def written_out(self, supervise: Supervise) -> float:
        """The same loss with whole [M, K] logits and PyTorch's own gradients."""
        with self.accelerator.autocast():
            student, teacher = self._selected(supervise)
            features_Md = self.head(student.tokens)
            with torch.no_grad():
                teacher_Md = self.teacher_head(teacher.tokens)
        scores_MK = features_Md @ self.head.prototypes().T / STUDENT_TEMPERATURE
        with torch.no_grad():
            scores = teacher_Md @ self.teacher_head.prototypes().T / TEACHER_TEMPERATURE
            target_MK = (scores + self.offset_K).softmax(1)
        per_token_M = -(target_MK * scores_MK.log_softmax(1)).sum(1)
        return self._backward((per_token_M * student.weights).sum())

    def works(self) -> dict[str, Work]:
        """Every variant by name; each returns its loss."""
        return {
            f"{supervise}, {name}": lambda way=way, supervise=supervise: way(supervise)
            for supervise in ("masked", "all")
            for name, way in (("chunked", self.chunked), ("written out", self.written_out))
        }

    def _selected(self, supervise: Supervise) -> tuple[Supervised, Supervised]:
        weights_BN = patch_weights(self.hidden_BN, supervise=supervise, normalise="per_image", visible_weight=1.0)
        return select(self.tokens_BND, weights_BN), select(self.teacher_BND, weights_BN)

    def _backward(self, loss: Tensor) -> float:
        loss.backward()
        self.head.zero_grad()
        self.tokens_BND.grad = None
        return float(loss.detach())


@dataclass(frozen=True)
class AttentionSizes:
    pictures: int = 64
    image_size: int = 64
    patch_size: int = 8
    width: int = 96
    depth: int = 6
    heads: int = 3


class Attention:
    """Forward and backward of one tower with either kind of attention."""

    def __init__(self, sizes: AttentionSizes, accelerator: Accelerator):
        torch.manual_seed(0)
        self.accelerator = accelerator
        settings = ImageTower(
            patch_size=sizes.patch_size, width=sizes.width, depth=sizes.depth, num_heads=sizes.heads, num_cls=2
        )
        self.tower: TimmViT = build_image_tower(settings, sizes.image_size).to(accelerator.device)
        self.pixels = torch.rand(sizes.pictures, 3, sizes.image_size, sizes.image_size, device=accelerator.device)

    def plain(self) -> None:
        choose_attention(self.tower, bf16=True)
        self._pass()

    def fused(self) -> None:
        """timm's own choice; leaves the process as `choose_attention` left it."""
        torch.backends.cuda.enable_flash_sdp(True)
        for part in self.tower.modules():
            if "fused_attn" in vars(part):
                part.fused_attn = True
        self._pass()
        choose_attention(self.tower, bf16=True)

    def works(self) -> dict[str, Work]:
        return {"plain": self.plain, "fused": self.fused}

    def _pass(self) -> None:
        with self.accelerator.autocast():
            tokens = self.tower(self.pixels)
        tokens.patches.float().square().mean().backward()
        self.tower.zero_grad()
