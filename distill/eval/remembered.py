"""What an encoder said of a set of pictures or of a list of texts, kept for the tasks that ask for it again.

Several tasks look at the same view of the same pictures: nearest neighbours, linear and zero-shot classification, both
CLS tokens of retrieval. Inside `remembering` the encoder sees them once. What is kept of a picture is its CLS tokens
and the mean of its patches, on the CPU: C + 1 vectors. Nothing is kept outside, and no result changes.

Legend: B pictures, C CLS tokens, D width.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from distill.contracts import ImageEncoder, Tokens
from distill.encoders.dual import DualEncoder
from distill.eval.features import Precision, check_finite, device_of, tokens, unit
from distill.eval.progress import saw_pictures

MAX_BYTES = 2**31
"""Of what is kept of pictures: sets that do not fit any more are looked at again."""
MAX_TEXT_LISTS = 4
"""Lists of texts that are kept; the one that was asked for longest ago goes first."""

Read = Callable[[int, int], tuple[Float[Tensor, "B 3 H W"], Any]]
"""Pictures [start, stop) and whatever belongs to them, such as labels."""


@dataclass
class _Memory:
    pictures: dict[tuple[int, int, Precision], list[tuple[Tokens, Any]]] = field(default_factory=dict)
    """By the tower's and the set's identity; `held` keeps both alive, so no other object can take their place."""
    texts: "OrderedDict[tuple[int, tuple[str, ...]], Tensor]" = field(default_factory=OrderedDict)
    held: list[Any] = field(default_factory=list)
    num_bytes: int = 0
    """Of all pictures."""


_MEMORY: ContextVar[_Memory | None] = ContextVar("memory", default=None)


@contextmanager
def remembering() -> Iterator[None]:
    """Inside, what was said of a set or a list is kept while the same object is asked about; outside, nothing."""
    before = _MEMORY.set(_Memory())
    try:
        yield
    finally:
        _MEMORY.reset(before)


def global_tokens(
    image: ImageEncoder, data: Any, read: Read, *, batch_size: int, precision: Precision
) -> Iterator[tuple[Tokens, Any]]:
    """Final tokens of every batch of a set, and what `read` gave with it.

    Only for readers of CLS tokens and of the mean patch: of batches that were kept, the mean stands for all patches.
    """
    memory = _MEMORY.get()
    key = (id(image), id(data), precision)
    if memory is not None and key in memory.pictures:
        for found, said in memory.pictures[key]:
            saw_pictures(len(found.cls))
            yield _on(device_of(image), found), said
        return
    kept: list[tuple[Tokens, Any]] | None = None if memory is None else []
    for start in range(0, len(data), batch_size):
        pixels, said = read(start, min(start + batch_size, len(data)))
        found = tokens(image, pixels, kind="final", precision=precision)
        if memory is not None and kept is not None:
            summary = _on(torch.device("cpu"), _summary(found))
            memory.num_bytes += summary.cls.nbytes + summary.patches.nbytes
            kept.append((summary, said))
            if memory.num_bytes > MAX_BYTES:
                memory.num_bytes -= sum(each.cls.nbytes + each.patches.nbytes for each, _ in kept)
                kept = None
        saw_pictures(len(pixels))
        yield found, said
    if memory is not None and kept is not None:
        memory.pictures[key] = kept
        memory.held += [image, data]


def text_features(encoder: DualEncoder, texts: list[str]) -> Float[Tensor, "n D"]:
    """Unit embeddings of texts, float32. Raises ValueError for any that are not finite."""
    memory = _MEMORY.get()
    key = (id(encoder.text), tuple(texts))
    if memory is None or key not in memory.texts:
        found = unit(check_finite(encoder.encode_text(texts).float(), "text"))
        if memory is None:
            return found
        memory.texts[key] = found
        memory.held.append(encoder.text)
    memory.texts.move_to_end(key)
    while len(memory.texts) > MAX_TEXT_LISTS:
        memory.texts.popitem(last=False)
    return memory.texts[key]


def _summary(found: Tokens) -> Tokens:
    """The mean of a single patch is that patch to the bit."""
    # A clone: the CLS tokens are a view of all tokens, which must not be kept with them.
    return Tokens(cls=found.cls.clone(), patches=found.patches.mean(1, keepdim=True), grid=(1, 1))


def _on(device: torch.device, found: Tokens) -> Tokens:
    return Tokens(cls=found.cls.to(device), patches=found.patches.to(device), grid=found.grid)
