"""An image tower and a text tower that share one space."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill.config import Student, TextTower
from distill.contracts import ImageEncoder, TextEncoder
from distill.encoders.image import build_image_tower
from distill.encoders.text_open_clip import OpenClipText
from distill.encoders.text_tips import TipsText


class DualEncoder(nn.Module):
    """What is published: `image`, and `text` or None. Both have the same width."""

    def __init__(self, image: ImageEncoder, text: TextEncoder | None):
        """ValueError when the widths differ."""
        super().__init__()
        if text is not None and text.width != image.width:
            raise ValueError(f"the towers share one space, but image is {image.width} and text {text.width} wide")
        self.image = image
        self.text = text

    @torch.no_grad()
    def encode_text(self, texts: list[str], *, batch_size: int = 256) -> Float[Tensor, "n D"]:
        """Embeddings of any number of texts, not normalised, on the module's device, without history."""
        if self.text is None:
            raise ValueError("this encoder has no text tower (student.text.kind=none)")
        device = next(self.text.parameters()).device
        parts = [
            self.text(self.text.tokenize(texts[start : start + batch_size]).to(device))
            for start in range(0, len(texts), batch_size)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, self.text.width, device=device)


def build_dual(student: Student, image_size: int) -> DualEncoder:
    """Both towers of a recipe's student with random weights; pictures are `image_size` pixels wide."""
    image = build_image_tower(student.image, image_size)
    return DualEncoder(image, build_text_tower(student.text, image.width))


def build_text_tower(settings: TextTower, output_width: int) -> TextEncoder | None:
    """The text tower with random weights and `output_width` wide embeddings; None for kind=none."""
    if settings.kind == "none":
        return None
    sizes = {"depth": settings.depth, "num_heads": settings.num_heads, "context_length": settings.context_length}
    if settings.kind == "open_clip":
        return OpenClipText(width=settings.width, output_width=output_width, **sizes)
    if settings.width != output_width:
        raise ValueError(
            f"student.text.width is {settings.width} and the image tower is {output_width} wide; "
            "the TIPS text tower has no projection, so both must be equal"
        )
    return TipsText(width=settings.width, tokenizer=settings.tokenizer, **sizes)
