"""The TIPS text encoder (tipsv2.md section 9), in the key layout of the released files.

Legend: B texts, L tokens, D width, h heads.
"""

import functools
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from distill.contracts import TextEncoder
from distill.extras import optional_module

PAD = 0
VOCABULARY = 32_000
"""Pieces of the released SentencePiece model."""
EPSILON = 1e-5
"""Of every layer norm, as in the released PyTorch files."""


class TipsText(TextEncoder):
    """Bidirectional, mean-pooled over real tokens, no projection: `width` is also that of the joint space.

    Unlike the released tokenizer, padding is masked per text even when another text was cut.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        num_heads: int,
        context_length: int,
        tokenizer: str | None,
        mlp_width: int | None = None,
    ):
        """`tokenizer`: path of a SentencePiece model; without one only ids of the released vocabulary are
        accepted. `mlp_width` is four times the width unless given (4304 in the So400m model)."""
        super().__init__()
        self.width = width
        self.context_length = context_length
        self.num_layers = depth
        self.tokenizer = tokenizer
        vocabulary = VOCABULARY if tokenizer is None else _sentencepiece(tokenizer).get_piece_size()
        self.token_embedding = nn.Embedding(vocabulary, width)
        # forward multiplies by sqrt(D), which brings tokens to the scale of the sinusoids.
        nn.init.normal_(self.token_embedding.weight, std=width**-0.5)
        blocks = (Block(width, num_heads=num_heads, mlp_width=mlp_width or 4 * width) for _ in range(depth))
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(blocks)})
        self.ln_final = nn.LayerNorm(width, eps=EPSILON)
        self.register_buffer("positions", sinusoids(context_length, width), persistent=False)

    def tokenize(self, texts: list[str]) -> Int[Tensor, "B L"]:
        """Ids of the lower-cased texts, without start or end tokens, cut or padded with 0."""
        if self.tokenizer is None:
            raise ValueError("this TIPS text tower was built without a SentencePiece model; set its tokenizer")
        rows = _sentencepiece(self.tokenizer).encode([text.lower() for text in texts], out_type=int)
        length = self.context_length
        rows = [row[:length] + [PAD] * (length - len(row)) for row in rows]
        return torch.tensor(rows, dtype=torch.long).view(len(texts), length)

    def forward(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        """Mean over real tokens; a text without any becomes zeros."""
        real_BL = ids != PAD
        # A softmax over nothing is NaN: an empty text looks at its padding and is multiplied away below.
        seen_BL = real_BL | ~real_BL.any(dim=1, keepdim=True)
        x_BLD = self.token_embedding(ids) * math.sqrt(self.width) + self.positions[: ids.shape[1]]
        for block in self.transformer["resblocks"]:
            x_BLD = block(x_BLD, seen_BL)
        weights_BL1 = real_BL.unsqueeze(-1).to(x_BLD.dtype)
        return (self.ln_final(x_BLD) * weights_BL1).sum(dim=1) / (weights_BL1.sum(dim=1) + 1e-8)

    def layer_of(self, parameter_name: str) -> int:
        """Depth of a parameter: 0 embeddings, i for block i of `num_layers`; the final norm counts with the last."""
        parts = parameter_name.split(".")
        if parts[:2] == ["transformer", "resblocks"]:
            return int(parts[2]) + 1
        return self.num_layers if parts[0] == "ln_final" else 0


class Block(nn.Module):
    """Pre-norm transformer block with a ReLU MLP; padding is zeroed after each linear layer."""

    def __init__(self, width: int, *, num_heads: int, mlp_width: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=EPSILON)
        self.attn = SelfAttention(width, num_heads=num_heads)
        self.ln_2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, mlp_width), "c_proj": nn.Linear(mlp_width, width)})

    def forward(self, x_BLD: Float[Tensor, "B L D"], seen_BL: Bool[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        x_BLD = x_BLD + self.attn(self.ln_1(x_BLD), seen_BL)
        seen_BL1 = seen_BL.unsqueeze(-1)
        inner = F.relu(self.mlp["c_fc"](self.ln_2(x_BLD)) * seen_BL1)
        return x_BLD + self.mlp["c_proj"](inner) * seen_BL1


class SelfAttention(nn.Module):
    """Multi-head attention with the parameter names of torch's, without its inference fast path."""

    def __init__(self, width: int, *, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x_BLD: Float[Tensor, "B L D"], seen_BL: Bool[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Every token looks at the tokens in `seen_BL`."""
        qkv = F.linear(x_BLD, self.in_proj_weight, self.in_proj_bias)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        mixed_BhLd = F.scaled_dot_product_attention(query, key, value, attn_mask=seen_BL[:, None, None, :])
        return self.out_proj(mixed_BhLd.transpose(1, 2).flatten(2))


def sinusoids(length: int, width: int) -> Float[Tensor, "L D"]:
    """Fixed positions: sines, then cosines, of `width / 2` timescales from 1 to 10,000 in geometric steps."""
    if width % 2 or width < 4:
        raise ValueError(f"the TIPS text tower needs an even width of at least 4, got {width}")
    steps = torch.arange(width // 2, dtype=torch.float32) / (width // 2 - 1)
    angles = torch.arange(length, dtype=torch.float32).unsqueeze(1) * torch.exp(-math.log(10_000.0) * steps)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@functools.cache
def _sentencepiece(path: str):
    """The SentencePiece model at `path`, loaded once; ValueError when it cannot be."""
    sentencepiece = optional_module("sentencepiece", needed_by="the TIPS text tower")
    if not Path(path).is_file():
        where = "" if Path(path).is_absolute() else f" in {Path.cwd()}, where the command was given"
        raise ValueError(f"the tokenizer {path} does not exist{where}")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=path)
    except (OSError, RuntimeError) as problem:
        raise ValueError(f"{path} is not a SentencePiece model: {problem}") from problem
