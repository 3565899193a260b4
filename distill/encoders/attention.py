"""Which attention kernel runs on CPUs."""

import torch
from torch import nn


def choose_attention(*modules: nn.Module | None, bf16: bool) -> None:
    """In bf16, attention as matmul, softmax, matmul; in fp32, PyTorch's fused CPU kernel.

    Measured on two AVX-512 cores, torch 2.15, 256 pictures of 66 tokens, width 96, 6 blocks, bf16: forward and backward
    take 0.72 s plain and 1.61 s fused (benchmarks/step_time.py). In fp32 the fused kernel is the faster one, by 1 to
    15 %. Both give the same numbers up to rounding, so the choice must not depend on what the process did before.
    Switches timm's blocks one by one, and the kernel itself for the towers that go through PyTorch's own multi-head
    attention.
    """
    torch.backends.cuda.enable_flash_sdp(not bf16)  # the switch of the CPU kernel too, despite its name
    for module in modules:
        for part in module.modules() if module is not None else ():
            if "fused_attn" in vars(part):
                part.fused_attn = not bf16
