"""Cross-entropy between a teacher's and a student's distribution over prototypes, without ever holding them.

A prototype head maps a token to a unit vector z in the bottleneck; its scores are the cosines z @ prototypes^T.

    target_mk     = softmax_k(score^teacher_mk / temperature + offset_k)
    prediction_mk = softmax_k(score^student_mk / student_temperature)
    CE_m          = -sum_k target_mk log prediction_mk

What keeps targets from collapsing is only the `offset`: EMA centring and Sinkhorn–Knopp differ in how they choose
it (`distill.objective.balance`).

Legend: M tokens, D width of the student's tokens, E of the teacher's, d bottleneck, K prototypes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

TOKENS, PROTOTYPES, TARGET_FEATURES, TARGET_PROTOTYPES, TRUNK = range(5)
"""Places of what the loss is differentiated by; the parameters of the student's trunk come last."""


@runtime_checkable
class Head(Protocol):
    """A projection head. It must treat every token on its own, in training too: tokens come in chunks."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens [M, D] to unit vectors [M, d]."""
        ...

    def prototypes(self) -> Tensor:
        """Unit vectors [K, d]."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that trains, the prototypes included."""
        ...


@dataclass(frozen=True)
class Target:
    """A teacher's distribution over prototypes: softmax(features @ prototypes^T / temperature + offset).

    `gradient`: factor on the loss's gradient for features and prototypes; 0 makes them constants. The offset is one.
    """

    features: Float[Tensor, "M d"]
    prototypes: Float[Tensor, "K d"]
    offset: Float[Tensor, " K"]
    temperature: float
    gradient: float = 0.0


@dataclass(frozen=True)
class TokenLoss:
    """`loss` is the weighted sum over tokens; `per_token` the unweighted loss of each, without history."""

    loss: Float[Tensor, ""]
    per_token: Float[Tensor, " M"]


def chunk_rows(num_prototypes: int, *, device: torch.device, max_elements: int | None = None) -> int:
    """Tokens that are worked on together, so that a [tokens, prototypes] block has at most `max_elements` entries.

    Without a given bound: 2**22 on a CPU (16 MiB in float32). Accelerators get 2**25, because small blocks would
    leave them waiting for kernels to be launched. At least one token; results do not depend on it beyond rounding.
    """
    if max_elements is None:
        max_elements = 2**22 if device.type == "cpu" else 2**25
    return max(1, max_elements // num_prototypes)


def bottleneck(tokens_ME: Float[Tensor, "M E"], *, head: Head, rows: int) -> Float[Tensor, "M d"]:
    """The teacher's bottleneck features in float32, `rows` tokens at a time: no [M, hidden] tensor stays alive.

    For a head or tokens that learn, that holds too: backward runs the head again, chunk by chunk.
    """
    learns = tokens_ME.requires_grad or any(parameter.requires_grad for parameter in head.parameters())
    run = _run_again_in_backward if learns and torch.is_grad_enabled() else _run
    return torch.cat([run(head, chunk).to(_at_least_float32(chunk)) for chunk in tokens_ME.split(rows)])


def _run(head: Head, chunk_cE: Tensor) -> Tensor:
    return head(chunk_cE)


def _run_again_in_backward(head: Head, chunk_cE: Tensor) -> Tensor:
    with _autocast_without_cache(chunk_cE.device.type):
        return checkpoint(head, chunk_cE, use_reentrant=False, preserve_rng_state=False)


def prototype_cross_entropy(
    tokens_MD: Float[Tensor, "M D"],
    *,
    student_head: Head,
    target: Target,
    student_temperature: float,
    weights_M: Float[Tensor, " M"],
    max_elements: int | None = None,
) -> TokenLoss:
    """sum_m weights_m CE_m, with gradients for the tokens and the student's head (iBOT eq. 2, DINO eq. 2).

    Softmax and logarithm are over scores computed in float32, under autocast too.

    No [M, K] tensor exists. The forward pass walks over chunks of tokens; for each it computes the loss *and at once*
    its gradient, which for a cross-entropy of softmax is known in closed form, weight / student_temperature *
    (prediction - target), pushes it through the head's trunk, adds it to the running sums (float32 for parameters),
    and forgets the chunk. The backward pass only multiplies the sums by the gradient that arrives. So unlike
    checkpointing there is no second forward, and all-token supervision costs the memory of one chunk, as
    masked-only does. Prices to know: nothing can be differentiated twice; when gradients are wanted they are
    computed in forward even if backward is never called; fp16 loss scaling would arrive after the trunk's gradients
    were rounded, so use bf16 or float32; torch.compile belongs on the encoders, not around this.

    A target with `gradient` above 0 gets its own, in closed form too: gradient * weight / temperature *
    target_mk (-log prediction_mk - CE_m) for score^teacher_mk. None reaches its offset or `weights_M`. Frozen heads,
    and tokens and targets without history, are skipped and cost nothing.
    """
    prototypes_Kd = student_head.prototypes()
    assert prototypes_Kd.shape[0] == target.prototypes.shape[0], "student and teacher have different prototypes"
    job = _Job(
        head=student_head,
        target=target,
        temperature=student_temperature,
        weights=weights_M.detach(),
        rows=chunk_rows(prototypes_Kd.shape[0], device=tokens_MD.device, max_elements=max_elements),
        differentiate=torch.is_grad_enabled(),
    )
    trunk = [parameter for parameter in student_head.parameters() if parameter.requires_grad]
    wanted = [target.features, target.prototypes]
    if target.gradient == 0:
        wanted = [tensor.detach() for tensor in wanted]
    loss, per_token_M = _PrototypeCrossEntropy.apply(job, tokens_MD, prototypes_Kd, *wanted, *trunk)
    return TokenLoss(loss=loss, per_token=per_token_M)


@dataclass(frozen=True)
class _Job:
    """What the autograd function needs besides the tensors it is differentiated by."""

    head: Head
    target: Target
    temperature: float
    weights: Tensor
    rows: int
    differentiate: bool


class _PrototypeCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, job, tokens_MD, prototypes_Kd, *target_and_trunk):
        inputs = [tokens_MD, prototypes_Kd, *target_and_trunk]
        sums = _Sums(inputs, ctx.needs_input_grad[1:] if job.differentiate else (False,) * len(inputs))
        prototypes_Kd = prototypes_Kd.detach().to(_at_least_float32(prototypes_Kd))
        per_token_M = tokens_MD.new_empty(len(tokens_MD), dtype=prototypes_Kd.dtype)
        for start in range(0, len(tokens_MD), job.rows):
            rows = slice(start, start + job.rows)
            _one_chunk(job, rows, tokens_MD, prototypes_Kd, per_token_M, sums)
        loss = (per_token_M * job.weights).sum()
        ctx.save_for_backward(*sums.totals)
        ctx.dtypes = [tensor.dtype for tensor in sums.inputs]
        ctx.mark_non_differentiable(per_token_M)
        return loss, per_token_M

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, _):
        gradients = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return None, *(None if total is None else (total * upstream).to(dtype) for total, dtype in gradients)


class _Sums:
    """Running gradients of what the loss is differentiated by; None where not needed or never reached."""

    def __init__(self, inputs: list[Tensor], needed: tuple[bool, ...]):
        self.inputs = inputs
        self.needed = needed
        self.totals: list[Tensor | None] = [None] * len(inputs)
        for index in range(TRUNK):
            if needed[index]:
                self.totals[index] = self._zeros(index)
        self.trunk_trains = needed[TOKENS] or any(needed[TRUNK:])
        self.student_trains = self.trunk_trains or needed[PROTOTYPES]
        self.target_trains = needed[TARGET_FEATURES] or needed[TARGET_PROTOTYPES]

    def _zeros(self, index: int) -> Tensor:
        tensor = self.inputs[index]
        return torch.zeros_like(tensor, dtype=tensor.dtype if index == TOKENS else _at_least_float32(tensor))

    def add_prototypes(self, slope_cK, z_cd) -> None:
        if self.needed[PROTOTYPES]:
            self.totals[PROTOTYPES].addmm_(slope_cK.T, z_cd)

    def add_target(self, rows: slice, slope_cK) -> None:
        """From the gradient of a chunk's teacher scores, cosines before temperature."""
        features_Md, prototypes_Kd = self.inputs[TARGET_FEATURES], self.inputs[TARGET_PROTOTYPES]
        if self.needed[TARGET_FEATURES]:
            self.totals[TARGET_FEATURES][rows] = slope_cK @ prototypes_Kd.detach().to(slope_cK.dtype)
        if self.needed[TARGET_PROTOTYPES]:
            self.totals[TARGET_PROTOTYPES].addmm_(slope_cK.T, features_Md[rows].detach().to(slope_cK.dtype))

    def add_trunk(self, rows: slice, leaf_cD, z_cd, slope_cd) -> None:
        """Back through the trunk of one chunk, from the gradient of its bottleneck features."""
        places = [index for index in (TOKENS, *range(TRUNK, len(self.inputs))) if self.needed[index]]
        sources = [leaf_cD if index == TOKENS else self.inputs[index] for index in places]
        gradients = torch.autograd.grad(z_cd, sources, slope_cd.to(z_cd.dtype), allow_unused=True)
        for index, gradient in zip(places, gradients, strict=True):
            if index == TOKENS:
                self.totals[TOKENS][rows] = gradient
            elif gradient is not None:
                if self.totals[index] is None:
                    self.totals[index] = self._zeros(index)
                self.totals[index] += gradient


def _one_chunk(job: _Job, rows: slice, tokens_MD, prototypes_Kd, per_token_M, sums: _Sums) -> None:
    """Loss and gradients of `tokens_MD[rows]`, written into `per_token_M` and added to `sums`."""
    with torch.set_grad_enabled(sums.trunk_trains), _autocast_without_cache(tokens_MD.device.type):
        leaf_cD = tokens_MD[rows].detach().requires_grad_(sums.needed[TOKENS])
        z_cd = job.head(leaf_cD)
    with torch.autocast(tokens_MD.device.type, enabled=False):
        flat_cd = z_cd.detach().to(prototypes_Kd.dtype)
        # At most three [c, K] tensors at a time: hence the order, the temporaries without a name and the `del`.
        log_prediction_cK = (flat_cd @ prototypes_Kd.T).div_(job.temperature).log_softmax(1)
        target_cK = _target(job.target, rows)
        product_cK = target_cK * log_prediction_cK
        per_token_M[rows] = -product_cK.sum(1)
        if sums.target_trains:
            scale_c = -job.target.gradient / job.target.temperature * job.weights[rows]
            sums.add_target(rows, product_cK.addcmul_(target_cK, per_token_M[rows, None]).mul_(scale_c[:, None]))
        del product_cK
        if not sums.student_trains:
            return
        slope_cK = log_prediction_cK.exp_()
        slope_cK.sub_(target_cK).mul_((job.weights[rows] / job.temperature)[:, None])
        del log_prediction_cK, target_cK
        sums.add_prototypes(slope_cK, flat_cd)
        slope_cd = slope_cK @ prototypes_Kd if sums.trunk_trains else None
        del slope_cK
    if sums.trunk_trains and z_cd.requires_grad:
        sums.add_trunk(rows, leaf_cD, z_cd, slope_cd)


def _target(target: Target, rows: slice) -> Tensor:
    features_cd = target.features[rows].detach().to(_at_least_float32(target.features))
    prototypes_Kd = target.prototypes.detach().to(features_cd.dtype)
    return (features_cd @ prototypes_Kd.T).div_(target.temperature).add_(target.offset.detach()).softmax(1)


def _autocast_without_cache(kind: str) -> torch.autocast:
    """The surrounding autocast, but casting weights anew.

    torch until late 2025 reuses a cast made under no_grad and silently loses the gradient (pytorch issue 112583).
    """
    enabled = torch.is_autocast_enabled(kind)
    return torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), enabled=enabled, cache_enabled=False)


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
