"""Hidden patches left out of a transformer's pass: what is left is what a pass of those tokens alone would give."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import losses, numbers, opened, tiny, trained
from torch import Tensor, nn

from distill.compose import compose
from distill.config import ImageTower
from distill.encoders.image import build_image_tower
from distill.encoders.vit import TimmViT

FAMILIES = {
    "plain": "timm:vit_tiny_patch16_224",
    "two CLS tokens": "timm:vit_base_patch14_reg1_tipsv2",
    "four registers": "timm:vit_small_patch14_reg4_dinov2",
    "attention pooling": "timm:vit_base_patch16_siglip_224",
    "rotary": "timm:vit_small_patch16_dinov3",
    "rotary and positions": "timm:eva02_tiny_patch14_224",
    "mixed rotary": "timm:vit_small_patch16_rope_mixed_224",
}
DROP = ("masking.how=drop", "objective.patch.supervise=visible")


def tower_of(family: str) -> TimmViT:
    torch.manual_seed(0)
    sizes = {"patch_size": 8, "width": 32, "depth": 3, "num_heads": 2, "num_cls": 1}
    return shaken(build_image_tower(ImageTower(model=FAMILIES[family], **sizes), 32)).eval()


def shaken(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module


def pixels_and_hidden(num_hidden: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    order = torch.rand(2, 16, generator=generator).argsort(dim=1)
    return torch.rand(2, 3, 32, 32, generator=generator), order < num_hidden


def alone(tower: TimmViT, pixels: Tensor, visible: list[int]) -> list[Tensor]:
    """One picture's prefix and these patches after every block, from timm's own parts, and after the norm."""
    vit, prefix = tower.model, tower.model.num_prefix_tokens
    embedded = vit.patch_embed((pixels[None] - tower.pixel_mean) / tower.pixel_std)
    x = vit._pos_embed(embedded)
    x, rope = x if isinstance(x, tuple) else (x, None)
    x = vit.norm_pre(x)[:, [*range(prefix), *(prefix + place for place in visible)]]
    left = []
    for number, block in enumerate(vit.blocks):
        if rope is None:
            x = block(x)
        else:
            own = rope[number] if vit.rope_mixed else rope
            x = block(x, rope=own[..., visible, :])
        left.append(x)
    return [*left, vit.norm(x)]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_visible_tokens_are_those_of_a_pass_of_visible_tokens_alone(family: str):
    tower = tower_of(family)
    pixels, hidden = pixels_and_hidden()
    found = tower(pixels, hidden, layers=(2,), drop=True)
    assert found.patches.shape == (2, 16, 32) and found.grid == (4, 4)
    for image in range(2):
        visible = (~hidden[image]).nonzero().flatten().tolist()
        *left, normed = alone(tower, pixels[image], visible)
        prefix = tower.model.num_prefix_tokens
        pool = tower.model.attn_pool
        # Measured worst case over all families: 3.3e-7 with attention pooling, else 0, at values up to 6.
        cls = normed[:, :1] if pool is None else pool(normed)[:, None]
        torch.testing.assert_close(found.cls[image], cls[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(found.patches[image, visible], normed[0, prefix:], atol=1e-5, rtol=0)
        torch.testing.assert_close(found.layers[0][image, visible], left[1][0, prefix:], atol=1e-5, rtol=0)
    # Nobody may hear what stands in the others' places.
    assert torch.equal(found.patches.isnan().all(dim=2), hidden)
    assert torch.equal(found.layers[0].isnan().any(dim=2), hidden)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_dropping_nothing_is_a_plain_pass(family: str):
    tower = tower_of(family)
    pixels, hidden = pixels_and_hidden(num_hidden=0)
    plain = tower(pixels)
    for found in (tower(pixels, hidden, drop=True), tower(pixels, drop=True)):
        torch.testing.assert_close(found.patches, plain.patches, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.cls, plain.cls, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_gradient_and_none_is_nan(family: str):
    """Data parallelism waits for every one of them."""
    tower = tower_of(family).train()
    pixels, hidden = pixels_and_hidden()
    found = tower(pixels, hidden, drop=True)
    (found.patches[~hidden].square().sum() + found.cls.square().sum()).backward()
    assert [name for name, parameter in tower.named_parameters() if parameter.grad is None] == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in tower.parameters())


def test_pictures_that_keep_different_numbers_of_patches_are_refused():
    pixels, hidden = pixels_and_hidden()
    hidden[0, (~hidden[0]).nonzero()[0]] = True
    with pytest.raises(ValueError, match=r"these keep 3 to 4; set masking.image_share=1 or masking.how=replace"):
        tower_of("plain")(pixels, hidden, drop=True)


def test_the_learner_drops_what_is_hidden_and_the_loss_stays_finite(tmp_path: Path):
    run = trained(tmp_path / "run", *DROP)
    assert len(losses(run)) == 6 and all(loss == loss for loss in losses(run))
    # There is no prediction for hidden patches that could be overheard.
    assert all("patch/visible" in line and "patch/hidden" not in line for line in numbers(run))
    assert any("patch/hidden" in line for line in numbers(trained(tmp_path / "replace", DROP[1])))


def test_dropping_shortens_what_the_blocks_see(tmp_path: Path):
    """Which is what it is for. Measured (vit_tiny_patch16_224, 4 pictures of 224 pixels, 75 % hidden, one CPU thread,
    fp32, forward and backward, best of 6): the masked pass takes 0.371 s replaced and 0.095 s dropped, 3.9 times less;
    with the unmasked pass, which stays, 0.725 s and 0.487 s, 1.5 times less."""
    seen = []
    with opened(tiny(tmp_path / "run", *DROP)) as training:
        learner = training.parts.learner
        learner.encoder.image.blocks()[0].register_forward_pre_hook(lambda block, args: seen.append(args[0].shape))
        predictions = learner(next(training.stream))
    assert [shape[:2] for shape in seen] == [(8, 18), (8, 6)]  # 2 CLS tokens, 16 or 4 patches
    assert predictions.unmasked.patches.isfinite().all() and predictions.masked.patches.isnan().any()


def test_a_convnet_that_should_drop_is_refused_before_anything_is_read(tmp_path: Path):
    recipe = tiny(tmp_path / "run", *DROP, "data.image_size=64")
    image = ImageTower(model="timm:test_convnext", num_cls=1)
    recipe = replace(recipe, student=replace(recipe.student, image=image))
    with pytest.raises(ValueError, match=r"masking\.how=drop: timm:test_convnext needs every place of a picture"):
        compose(recipe)
