"""Adapters on attention: what they compute, where they sit, and that they come and go without a trace."""

import copy
from collections.abc import Callable

import pytest
import torch
import transformers
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from distill.config import ImageTower
from distill.contracts import ImageEncoder, Statistics
from distill.encoders.image import build_image_tower
from distill.encoders.low_rank import add_adapters, merge_adapters, state_without_adapters
from teachers.families.hf_towers import SIGLIP, HfImage
from teachers.families.open_clip_towers import ClipViT

STATISTICS = Statistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
TINY = {"width": 24, "depth": 2, "num_heads": 2}


def timm_tower(name: str, *, num_cls: int = 1, **more: object) -> ImageEncoder:
    return build_image_tower(ImageTower(model=f"timm:{name}", num_cls=num_cls, **TINY, **more), 32, STATISTICS)


def transformers_tower() -> ImageEncoder:
    config = transformers.SiglipVisionConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16
    )
    model = transformers.SiglipVisionModel(config)
    return HfImage(model, layout=SIGLIP, width=24, patch_size=16, statistics=STATISTICS, projection=None)


def open_clip_tower() -> ImageEncoder:
    visual = VisionTransformer(
        image_size=32, patch_size=16, width=24, layers=2, heads=2, mlp_ratio=2.0, ls_init_value=None, output_dim=16
    )
    return ClipViT(visual, statistics=STATISTICS)


TOWERS: dict[str, tuple[Callable[[], ImageEncoder], str, tuple[str, ...]]] = {
    "timm": (
        lambda: timm_tower("vit_tiny_patch16_224", patch_size=16),
        "model.blocks.{}.attn",
        ("qkv.weight", "proj.weight"),
    ),
    "timm, pooling by attention": (
        lambda: timm_tower("vit_base_patch16_siglip_224", patch_size=16),
        "model.blocks.{}.attn",
        ("qkv.weight", "proj.weight"),
    ),
    "timm, EVA": (
        lambda: timm_tower("eva02_tiny_patch14_224", patch_size=16),
        "model.blocks.{}.attn",
        ("qkv.weight", "proj.weight"),
    ),
    "timm, EVA in three": (
        lambda: timm_tower("eva02_tiny_patch14_224", patch_size=16, extra={"qkv_fused": False}),
        "model.blocks.{}.attn",
        ("q_proj.weight", "k_proj.weight", "v_proj.weight", "proj.weight"),
    ),
    "transformers": (
        transformers_tower,
        "model.encoder.layers.{}.self_attn",
        ("q_proj.weight", "k_proj.weight", "v_proj.weight", "out_proj.weight"),
    ),
    "open_clip": (
        open_clip_tower,
        "visual.transformer.resblocks.{}.attn",
        ("in_proj_weight", "out_proj.weight"),
    ),
}
"""How to build it, where the attention of a block is, and its linear maps."""

PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def built(name: str) -> tuple[ImageEncoder, set[str]]:
    """A frozen tower in eval, its weights far from their small start, and the weights that adapters belong on."""
    build, attention, maps = TOWERS[name]
    torch.manual_seed(0)
    tower = build().eval().requires_grad_(False)
    for parameter in tower.parameters():
        parameter.copy_(parameter + 0.3 * torch.randn_like(parameter))
    return tower, {f"{attention.format(block)}.{weight}" for block in range(2) for weight in maps}


def adapted(tower: nn.Module, *, rank: int = 2, alpha: float = 3.0) -> None:
    add_adapters(tower, rank=rank, alpha=alpha, generator=torch.Generator().manual_seed(1))


def adapters(tower: nn.Module) -> dict[str, dict[str, Tensor]]:
    """`up` and `down` by the name that their weight had."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, parameter in tower.named_parameters():
        if ".parametrizations." in name and not name.endswith(".original"):
            module, inside = name.split(".parametrizations.")
            weight, _, part = inside.split(".")
            found.setdefault(f"{module}.{weight}", {})[part] = parameter
    return found


@torch.no_grad()
def outputs(tower: ImageEncoder) -> list[Tensor]:
    found = (tower(PIXELS), tower.values(PIXELS))
    return [tensor for tokens in found for tensor in (tokens.cls, tokens.patches)]


@pytest.mark.parametrize("name", TOWERS)
def test_adapters_sit_on_attention_and_change_nothing_at_first(name: str):
    tower, expected = built(name)
    plain, before = outputs(tower), {key: value.clone() for key, value in tower.state_dict().items()}
    adapted(tower)
    assert set(adapters(tower)) == expected
    assert {key for key, value in tower.named_parameters() if value.requires_grad} == {
        key for key, _ in tower.named_parameters() if key.endswith((".up", ".down"))
    }
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(outputs(tower), plain, strict=True))
    found = state_without_adapters(tower)
    assert found.keys() == before.keys() and all(torch.equal(found[key], before[key]) for key in before)


@pytest.mark.parametrize("name", TOWERS)
def test_an_adapter_adds_its_product_to_the_weight_and_merging_keeps_what_is_computed(name: str):
    tower, _ = built(name)
    by_hand = copy.deepcopy(tower)
    adapted(tower)
    torch.manual_seed(2)
    weights = by_hand.state_dict()
    for weight, parts in adapters(tower).items():
        parts["up"].data.normal_()
        weights[weight] += 3.0 / 2 * parts["up"].detach() @ parts["down"].detach()
    plain, expected, found = outputs(built(name)[0]), outputs(by_hand), outputs(tower)
    # Measured worst case: 9.1e-7.
    assert all((one - other).abs().max() < 5e-6 * other.abs().max() for one, other in zip(found, expected, strict=True))
    assert not any(torch.allclose(one, other, atol=1e-3) for one, other in zip(found, plain, strict=True))
    merge_adapters(tower)
    assert not adapters(tower) and tower.state_dict().keys() == weights.keys()
    assert all(torch.equal(one, other) for one, other in zip(outputs(tower), found, strict=True))


@pytest.mark.parametrize("name", ["timm", "transformers", "open_clip"])
def test_adapters_get_the_gradient_of_a_low_rank_change_and_the_weight_gets_none(name: str):
    tower = built(name)[0].double()
    by_hand = copy.deepcopy(tower).requires_grad_(True)
    adapted(tower)
    generator = torch.Generator().manual_seed(2)
    for weight, parts in adapters(tower).items():
        parts["up"].data.normal_(generator=generator)
        by_hand.get_parameter(weight).data += 1.5 * parts["up"].detach() @ parts["down"].detach()
    for one in (tower, by_hand):
        one(PIXELS.double()).patches.square().sum().backward()
    for weight, parts in adapters(tower).items():
        dense = by_hand.get_parameter(weight).grad
        # d(s B A): s G A^T for B and s B^T G for A. Measured worst case: 2.0e-14.
        for part, expected in (
            ("up", 1.5 * dense @ parts["down"].detach().T),
            ("down", 1.5 * parts["up"].detach().T @ dense),
        ):
            assert (parts[part].grad - expected).norm() <= 2e-13 * expected.norm()
    assert all(p.grad is None for key, p in tower.named_parameters() if not key.endswith((".up", ".down")))


def test_in_bf16_a_change_too_small_for_the_precision_still_reaches_the_weight():
    tower, _ = built("timm")
    adapted(tower, rank=1, alpha=1.0)
    qkv = tower.model.blocks[0].attn.qkv
    before = qkv.weight.clone()
    for parts in adapters(tower).values():
        parts["up"].data.fill_(1.0)
        parts["down"].data.fill_(1.0 + 2**-12)  # bf16 has 8 bits
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(qkv.weight - before, torch.full_like(before, 1.0 + 2**-12), atol=1e-6, rtol=0)


def test_recomputed_blocks_give_adapters_the_same_gradient():
    gradients = []
    for checkpointed in (False, True):
        tower, _ = built("timm")
        adapted(tower)
        tower.set_gradient_checkpointing(checkpointed)
        tower(PIXELS).patches.square().sum().backward()
        gradients.append([parts["up"].grad for parts in adapters(tower).values()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_starts_are_the_seeds_alone():
    starts = []
    for _ in range(2):
        tower, _ = built("timm")
        torch.rand(7)
        untouched = torch.get_rng_state()
        adapted(tower)
        assert torch.equal(torch.get_rng_state(), untouched)
        starts.append([parts["down"] for parts in adapters(tower).values()])
    assert all(torch.equal(one, other) for one, other in zip(*starts, strict=True))
    assert not torch.equal(starts[0][0][:, :8], starts[0][2][:, :8])


def test_weights_that_learn_themselves_get_no_adapter():
    tower, expected = built("timm")
    tower.model.blocks[1].requires_grad_(True)
    adapted(tower)
    assert set(adapters(tower)) == {weight for weight in expected if ".blocks.0." in weight}


def test_where_adapters_have_no_place_one_sentence_says_so():
    convnet = build_image_tower(ImageTower(model="timm:test_convnext", num_cls=1), 64, STATISTICS)
    with pytest.raises(ValueError, match="no attention in its blocks"):
        adapted(convnet.requires_grad_(False))
    tower, _ = built("timm")
    with pytest.raises(ValueError, match=r"rank 25 do not fit attention's weights of (72 x 24|24 x 24)"):
        adapted(tower, rank=25)
    with pytest.raises(ValueError, match="every block learns already"):
        adapted(tower.requires_grad_(True))
