"""Which attention kernel runs on CPUs."""

import torch
from torch import nn


def prefer_plain_attention(*modules: nn.Module | None) -> None:
    """Compute attention as matmul, softmax, matmul: in bf16 the fused CPU kernel is slower at a few hundred tokens.

    Measured on two AVX-512 cores, torch 2.15, bf16, 256 pictures of 66 tokens, width 96, 6 blocks: forward and
    backward take 0.72 s plain and 1.61 s fused (benchmarks/step_time.py). In fp32 it is the other way round, by 1 to
    15 %, so there this is left alone. The same numbers come out up to rounding. Switches timm's blocks one by one, and
    the fused kernel off for the towers that go through PyTorch's own multi-head attention.
    """
    torch.backends.cuda.enable_flash_sdp(False)  # the switch of the CPU kernel too, despite its name
    for module in modules:
        for part in module.modules() if module is not None else ():
            if "fused_attn" in vars(part):
                part.fused_attn = False
