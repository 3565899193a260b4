"""open_clip's text transformer behind the TextEncoder contract."""

import functools

import torch
from jaxtyping import Float, Int
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer
from torch import Tensor

from distill.contracts import TextEncoder


class OpenClipText(TextEncoder):
    """CLIP's text tower: causal, reads the embedding at the end token, projects to the image's width.

    `state_dict()` keeps open_clip's own names under `model.`. The tokenizer is the one bundled with
    open_clip; nothing is downloaded.
    """

    def __init__(self, *, width: int, depth: int, num_heads: int, context_length: int, output_width: int):
        """`width` is the transformer's own; `output_width` that of the joint space."""
        super().__init__()
        self.model = TextTransformer(
            context_length=context_length,
            vocab_size=_tokenizer().vocab_size,
            width=width,
            heads=num_heads,
            layers=depth,
            output_dim=output_width,
        )
        self.width = output_width
        self.context_length = context_length
        self.num_layers = depth

    def tokenize(self, texts: list[str]) -> Int[Tensor, "B L"]:
        """What open_clip's tokenizer returns, faster: start, words, end, zeros; too long texts are cut."""
        start, end = _tokenizer().sot_token_id, _tokenizer().eot_token_id
        rows = []
        for text in texts:
            words = _word_ids(text)[: self.context_length - 2]
            rows.append([start, *words, end] + [0] * (self.context_length - 2 - len(words)))
        return torch.tensor(rows, dtype=torch.long).view(len(texts), self.context_length)

    def forward(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        return self.model(ids)

    def layer_of(self, parameter_name: str) -> int:
        """Depth of a parameter: 0 embeddings, i for block i of `num_layers`; what follows counts with the last."""
        parts = parameter_name.split(".")
        if parts[:3] == ["model", "transformer", "resblocks"]:
            return int(parts[3]) + 1
        return self.num_layers if parts[1] in ("ln_final", "text_projection") else 0


@functools.cache
def _tokenizer() -> SimpleTokenizer:
    """One for all towers: copying a tower must not copy half a million merges."""
    return SimpleTokenizer()


def _word_ids(text: str) -> list[int]:
    """Token ids of a text. No token of CLIP's vocabulary spans a space, so words are looked up one by one."""
    # ftfy, which repairs broken encodings and HTML, changes nothing in printable ASCII without '&'.
    plain = text.isascii() and text.isprintable() and "&" not in text
    clean = text.lower() if plain else _tokenizer().clean_fn(text)
    return [token for word in clean.split() for token in _ids_of_word(word)]


@functools.lru_cache(maxsize=1 << 17)
def _ids_of_word(word: str) -> tuple[int, ...]:
    tokenizer = _tokenizer()
    pieces = ("".join(tokenizer.byte_encoder[byte] for byte in piece.encode()) for piece in tokenizer.pat.findall(word))
    return tuple(tokenizer.encoder[token] for piece in pieces for token in tokenizer.bpe(piece).split(" "))
