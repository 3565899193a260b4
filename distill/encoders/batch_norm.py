"""Batch norm in a tower: while it trains, what the tower says of a picture depends on the rest of the batch.

Three things follow, and are dealt with here and in the learner. Statistics of a micro-batch are not those of the batch,
nor those of one process's share those of all. Running statistics, which evaluation and momentum teachers use, should
describe unmasked pictures. And a norm that is not trained must not drift.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """Every batch norm inside, synchronised ones and those fused with an activation among them."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def is_trained(norm: _BatchNorm) -> bool:
    """Whether some parameter of it is trained; one that is not keeps its running statistics too."""
    return any(parameter.requires_grad for parameter in norm.parameters())


def mixes_pictures(module: nn.Module) -> bool:
    """Whether some batch norm inside looks at the batch, as it does in training mode."""
    return any(norm.training for norm in batch_norms(module))


@contextmanager
def running_statistics_stay(module: nn.Module) -> Iterator[None]:
    """Inside, batch norms still look at the batch and learn nothing for later from it."""
    following = [norm for norm in batch_norms(module) if norm.track_running_stats]
    for norm in following:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in following:
            norm.track_running_stats = True


def check_batch_norms(module: nn.Module, *, accumulate: int, gradient_checkpointing: bool) -> None:
    """ValueError for settings that promise the same results and cannot keep that with trained batch norms."""
    if not any(is_trained(norm) for norm in batch_norms(module)):
        return
    if accumulate > 1:
        raise ValueError(
            f"optim.accumulate={accumulate}: student.image has batch norms, and the statistics of a micro-batch are "
            "not those of the batch; set optim.accumulate=1, freeze them, or choose a network with layer norms such as "
            "timm:convnext_atto"
        )
    if gradient_checkpointing:
        raise ValueError(
            "student.image.gradient_checkpointing: student.image has batch norms, whose running statistics would count "
            "every batch twice; set it to false, freeze them, or choose a network with layer norms such as "
            "timm:convnext_atto"
        )


def join_processes(module: nn.Module, device: torch.device) -> None:
    """Let trained batch norms look at the pictures of all processes, in place; parameters and buffers stay the same.

    ValueError on CPUs, where torch has no such norm.
    """
    if not any(is_trained(norm) for norm in batch_norms(module)):
        return
    if device.type == "cpu":
        raise ValueError(
            "student.image has batch norms, which torch cannot synchronise between processes on CPUs; use one process, "
            "freeze them, or choose a network with layer norms such as timm:convnext_atto"
        )
    convert_sync_batchnorm(module)
