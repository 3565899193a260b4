"""Hidden patches left out of a transformer's pass, which then costs what its visible patches cost.

Legend: B images, N patches, V visible patches of an image, T prefix tokens and patches, D width, H heads or 1.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def visible_patches(hidden_BN: Bool[Tensor, "B N"]) -> Int[Tensor, "B V"]:
    """The places of an image's visible patches, in order. Reads two numbers back from the device.

    ValueError when the images do not all keep equally many.
    """
    fewest, most = torch.stack(torch.aminmax((~hidden_BN).sum(dim=1))).tolist()
    if fewest != most:
        raise ValueError(
            f"hidden patches can be dropped where all images keep equally many, and these keep {fewest} to {most}; "
            "set masking.image_share=1 or masking.how=replace"
        )
    return hidden_BN.byte().argsort(dim=1, stable=True)[:, :fewest]


def only_visible(
    x_BTD: Float[Tensor, "B T D"], visible_BV: Int[Tensor, "B V"], *, num_prefix: int
) -> Float[Tensor, "B {num_prefix}+V D"]:
    """Prefix tokens and visible patches."""
    patches_BVD = x_BTD[:, num_prefix:].gather(1, visible_BV[..., None].expand(-1, -1, x_BTD.shape[-1]))
    return torch.cat([x_BTD[:, :num_prefix], patches_BVD], dim=1)


def rope_of_visible(
    rope: Float[Tensor, "N d"] | Float[Tensor, "H N d"], visible_BV: Int[Tensor, "B V"]
) -> Float[Tensor, "B _ V d"]:
    """A rotary embedding, of all heads or of each, at the places that are left; [B, H, V, d]."""
    rope_HNd = rope if rope.ndim == 3 else rope[None]
    return rope_HNd[:, visible_BV].transpose(0, 1)


def put_back(
    patches_BVD: Float[Tensor, "B V D"], visible_BV: Int[Tensor, "B V"], *, num_patches: int
) -> Float[Tensor, "B {num_patches} D"]:
    """Visible patches at their places; nan where a patch was dropped, so that nobody hears it by mistake."""
    batch, _, width = patches_BVD.shape
    nothing_BND = patches_BVD.new_full((batch, num_patches, width), torch.nan)
    return nothing_BND.scatter(1, visible_BV[..., None].expand(-1, -1, width), patches_BVD)
