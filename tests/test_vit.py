"""The image tower against timm and transformers, and what it refuses."""

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Tipsv2VisionConfig, Tipsv2VisionModel

from distill.config import ImageTower
from distill.encoders.image import build_image_tower
from distill.encoders.timm_names import timm_input_size, timm_statistics
from distill.encoders.timm_weights import load_timm_weights
from distill.encoders.vit import TimmViT

ROOT = Path(__file__).resolve().parents[1]
DEIT = Path("shared/weights/deit_tiny/model.safetensors")

FAMILIES = {
    "plain": "timm:vit_tiny_patch16_224",
    "tipsv2": "timm:vit_base_patch14_reg1_tipsv2",
    "dinov2, four registers": "timm:vit_small_patch14_reg4_dinov2",
    "dinov3, rotary": "timm:vit_small_patch16_dinov3",
    "eva02": "timm:eva02_tiny_patch14_224",
    "perception encoder": "timm:vit_pe_core_tiny_patch16_384",
    "mixed rotary": "timm:vit_small_patch16_rope_mixed_224",
}


def tiny(model: str = "timm:vit_tiny_patch16_224", *, image_size: int = 32, **settings) -> TimmViT:
    """A model of the family at 16 pixels a patch, width 32 and depth 2, with every weight random."""
    settings = {"width": 32, "depth": 2, "num_heads": 2, "patch_size": 8} | settings
    torch.manual_seed(0)
    return shaken(build_image_tower(ImageTower(model=model, **settings), image_size)).eval()


def shaken(module: nn.Module) -> nn.Module:
    """Random values everywhere, so that no zero bias or unit scale hides a mistake."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            is_scale = parameter.ndim == 1 and name.endswith(("weight", "gamma", "lambda1"))
            parameter.normal_(mean=1.0 if is_scale else 0.0, std=0.2)
    return module


def random_pixels(height: int, width: int) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def random_mask(num_patches: int) -> Tensor:
    return torch.rand(2, num_patches, generator=torch.Generator().manual_seed(2)) < 0.6


def hf_and_ours(*, swiglu: bool) -> tuple[Tipsv2VisionModel, TimmViT]:
    """The transformers oracle and our tower with the same random weights."""
    config = Tipsv2VisionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        use_swiglu_ffn=swiglu,
        mlp_ratio=4,
    )
    torch.manual_seed(3)
    oracle = shaken(Tipsv2VisionModel(config)).eval()
    # 2 x 88 columns: gate and value of the SwiGLU width that DINOv2's rule gives for 32 x 4.
    model, extra = ("giant", {"mlp_ratio": 176 / 32}) if swiglu else ("base", {})
    tower = tiny(f"timm:vit_{model}_patch14_reg1_tipsv2", image_size=56, patch_size=None, extra=extra)
    tower.model.load_state_dict(timm_names(oracle.state_dict(), swiglu=swiglu))
    tower.mask_token.data = oracle.embeddings.mask_token.data[None].clone()
    return oracle, tower


def timm_names(state: dict[str, Tensor], *, swiglu: bool) -> dict[str, Tensor]:
    """transformers' TIPSv2 weights under timm's names (tipsv2.md section 9)."""
    positions = state["embeddings.position_embeddings"]
    named = {
        "cls_token": state["embeddings.cls_token"] + positions[:, :1],
        "reg_token": state["embeddings.register_tokens"],
        "pos_embed": positions[:, 1:],
    }
    for kind in ("weight", "bias"):
        named[f"patch_embed.proj.{kind}"] = state[f"embeddings.patch_embeddings.projection.{kind}"]
        named[f"norm.{kind}"] = state[f"layernorm.{kind}"]
        for block in range(2):
            theirs, ours = f"encoder.layer.{block}", f"blocks.{block}"
            for norm in ("norm1", "norm2"):
                named[f"{ours}.{norm}.{kind}"] = state[f"{theirs}.{norm}.{kind}"]
            qkv = [state[f"{theirs}.attention.{part}_proj.{kind}"] for part in "qkv"]
            named[f"{ours}.attn.qkv.{kind}"] = torch.cat(qkv)
            named[f"{ours}.attn.proj.{kind}"] = state[f"{theirs}.attention.o_proj.{kind}"]
            into = [f"{theirs}.mlp.gate_proj", f"{theirs}.mlp.up_proj"] if swiglu else [f"{theirs}.mlp.fc1"]
            named[f"{ours}.mlp.fc1.{kind}"] = torch.cat([state[f"{name}.{kind}"] for name in into])
            named[f"{ours}.mlp.fc2.{kind}"] = state[f"{theirs}.mlp.{'down_proj' if swiglu else 'fc2'}.{kind}"]
    for block in range(2):
        for scale in (1, 2):
            named[f"blocks.{block}.ls{scale}.gamma"] = state[f"encoder.layer.{block}.layer_scale{scale}.lambda1"]
    return named


def hf_value_features(oracle: Tipsv2VisionModel, pixels: Tensor) -> Tensor:
    """tipsv2.md section 7, from the oracle's own layers."""
    first, last = oracle.encoder.layer
    x = first(oracle.embeddings(pixels))
    value = last.attention.o_proj(last.attention.v_proj(last.norm1(x)))
    x = x + last.layer_scale1(value)
    x = x + last.layer_scale2(last.mlp(last.norm2(x)))
    return oracle.layernorm(x)


def together(tokens) -> Tensor:
    return torch.cat([tokens.cls, tokens.patches], dim=1)


@pytest.mark.parametrize("size", [(56, 56), (84, 84), (84, 42)], ids=["native", "larger", "oblong"])
@pytest.mark.parametrize("swiglu", [False, True], ids=["gelu", "swiglu"])
@torch.no_grad()
def test_tipsv2_towers_agree_with_transformers_at_every_size(swiglu, size):
    oracle, tower = hf_and_ours(swiglu=swiglu)
    pixels = random_pixels(*size)
    hidden = random_mask(size[0] * size[1] // 196)
    # Measured worst case over all six cells: 1.2e-6 for tokens, 9.5e-7 for value features, at values up to 3.9.
    for mask in (None, hidden):
        expected = oracle(pixels, bool_masked_pos=mask).last_hidden_state
        torch.testing.assert_close(together(tower(pixels, mask)), expected, atol=1e-5, rtol=0)
    expected = hf_value_features(oracle, pixels)
    torch.testing.assert_close(together(tower.values(pixels)), expected, atol=1e-5, rtol=0)
    assert (expected - together(tower(pixels))).abs().max() > 0.01


@pytest.mark.parametrize("model", FAMILIES.values(), ids=FAMILIES.keys())
@torch.no_grad()
def test_tokens_are_timms_own(model):
    tower = tiny(model)
    for size in ((32, 32), (48, 32)):
        pixels = random_pixels(*size)
        expected = tower.model.forward_features((pixels - tower.pixel_mean) / tower.pixel_std)
        tokens = tower(pixels)
        if size == (32, 32) or "tipsv2" not in model:  # timm resamples TIPSv2's positions its own way
            torch.testing.assert_close(tokens.patches, expected[:, tower.model.num_prefix_tokens :], atol=1e-5, rtol=0)
            torch.testing.assert_close(tokens.cls, expected[:, :2], atol=1e-5, rtol=0)
        assert tokens.grid == (size[0] // 8, size[1] // 8)
        assert tokens.patches.shape == (2, tokens.grid[0] * tokens.grid[1], 32)


@pytest.mark.parametrize("model", FAMILIES.values(), ids=FAMILIES.keys())
@torch.no_grad()
def test_value_features_are_those_of_a_last_block_that_attends_only_to_itself(model, monkeypatch):
    tower, pixels, calls = tiny(model), random_pixels(32, 32), []
    attention = F.scaled_dot_product_attention

    def identity_in_the_last_block(query, key, value, **options):
        calls.append(value)
        return value if len(calls) == 2 else attention(query, key, value, **options)

    values = together(tower.values(pixels))
    monkeypatch.setattr(F, "scaled_dot_product_attention", identity_in_the_last_block)
    expected = together(tower(pixels))
    assert len(calls) == 2
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model", FAMILIES.values(), ids=FAMILIES.keys())
@torch.no_grad()
def test_hiding_nothing_is_the_same_as_no_mask(model):
    tower, pixels = tiny(model), random_pixels(32, 32)
    nothing = torch.zeros(2, 16, dtype=torch.bool)
    assert torch.equal(together(tower(pixels)), together(tower(pixels, nothing)))


@pytest.mark.parametrize("model", [FAMILIES["plain"], FAMILIES["tipsv2"]])
@torch.no_grad()
def test_the_mask_token_replaces_patches_before_positions_are_added(model):
    tower, pixels, hidden = tiny(model), random_pixels(32, 32), random_mask(16)
    vit = tower.model
    patches = vit.patch_embed((pixels - tower.pixel_mean) / tower.pixel_std)
    for image, row in hidden.nonzero().tolist():
        patches[image, row // 4, row % 4] = tower.mask_token[0, 0]
    expected = vit.norm(vit.blocks(vit.norm_pre(vit._pos_embed(patches))))
    torch.testing.assert_close(together(tower(pixels, hidden)), expected, atol=1e-6, rtol=0)
    # A hidden patch's pixels are never seen.
    inside = hidden.view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    other = torch.where(inside, 1 - pixels, pixels)
    assert torch.equal(together(tower(pixels, hidden)), together(tower(other, hidden)))


@pytest.mark.parametrize("model", FAMILIES.values(), ids=FAMILIES.keys())
@torch.no_grad()
def test_layers_are_what_the_blocks_leave_in_the_order_asked(model):
    tower, pixels, hidden, left = tiny(model, depth=3), random_pixels(32, 32), random_mask(16), []
    for block in tower.model.blocks:
        block.register_forward_hook(lambda module, inputs, output: left.append(output))
    tokens = tower(pixels, hidden, layers=(3, 1))
    prefix = tower.model.num_prefix_tokens
    for layer, expected in zip(tokens.layers, (left[2], left[0]), strict=True):
        assert torch.equal(layer, expected[:, prefix:])
    torch.testing.assert_close(tower.model.norm(left[2])[:, prefix:], tokens.patches, atol=0, rtol=0)
    plain = tower(pixels, hidden)
    assert plain.layers == () and torch.equal(together(plain), together(tokens))


def test_layers_survive_halving_and_lose_their_history_with_the_rest():
    tower = tiny()
    both = tower(torch.cat([random_pixels(32, 32)] * 2), layers=(1, 2))
    for half in both.halves():
        alone = tower(random_pixels(32, 32), layers=(1, 2))
        for ours, theirs in zip(half.layers, alone.layers, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert both.layers[0].requires_grad and not any(layer.requires_grad for layer in both.detach().layers)


@pytest.mark.parametrize("layers", [(0,), (3,), (1, -1)])
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(ValueError, match="but this tower has blocks 1 to 2"):
        tiny()(random_pixels(32, 32), layers=layers)


@pytest.mark.parametrize("hide", [False, True])
def test_every_parameter_takes_part_in_every_pass(hide):
    for model in FAMILIES.values():
        tower = tiny(model)
        tokens = tower(random_pixels(32, 32), random_mask(16) if hide else None)
        together(tokens).square().sum().backward()
        assert [name for name, parameter in tower.named_parameters() if parameter.grad is None] == []


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for enabled in (False, True):
        tower = tiny(gradient_checkpointing=enabled).train()
        assert tower.model.grad_checkpointing is enabled
        together(tower(random_pixels(32, 32), random_mask(16))).square().sum().backward()
        gradients.append([parameter.grad for parameter in tower.parameters()])
    assert all(torch.equal(plain, recomputed) for plain, recomputed in zip(*gradients, strict=True))


def test_the_second_cls_token_is_the_first_register_and_other_registers_stay_inside():
    tower = tiny(FAMILIES["dinov2, four registers"])
    assert tower.model.num_prefix_tokens == 5
    assert tower(random_pixels(32, 32)).cls.shape == (2, 2, 32)
    assert tiny(FAMILIES["dinov2, four registers"], num_cls=1)(random_pixels(32, 32)).cls.shape == (2, 1, 32)
    assert tiny(num_cls=1).model.reg_token is None
    assert tiny(num_cls=2).model.reg_token.shape == (1, 1, 32)


def test_pixels_are_seen_in_the_models_own_statistics():
    assert timm_statistics("timm:vit_base_patch14_reg1_tipsv2").mean == (0.0, 0.0, 0.0)
    assert timm_statistics("timm:vit_base_patch14_reg1_tipsv2").std == (1.0, 1.0, 1.0)
    assert timm_statistics("deit_tiny_patch16_224").mean == (0.485, 0.456, 0.406)
    tower = tiny("timm:deit_tiny_patch16_224")
    assert tower.pixel_std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_the_size_that_weights_were_trained_at_is_known():
    assert timm_input_size("timm:vit_base_patch14_reg1_tipsv2") == 448
    assert timm_input_size("deit_tiny_patch16_224") == 224


def test_layers_count_from_the_embeddings_to_the_final_norm():
    tower = tiny(FAMILIES["tipsv2"], depth=3)
    layers = {name: tower.layer_of(name) for name, _ in tower.named_parameters()}
    assert {name for name, layer in layers.items() if layer == 0} == {
        *("mask_token", "model.cls_token", "model.reg_token", "model.pos_embed"),
        *("model.patch_embed.proj.weight", "model.patch_embed.proj.bias"),
    }
    assert layers["model.blocks.0.attn.qkv.weight"] == 1
    assert layers["model.blocks.2.ls2.gamma"] == layers["model.norm.bias"] == tower.num_layers == 3
    assert tower.blocks() == list(tower.model.blocks)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "timm:vit_tiny_patch16_225"}, "not a model of timm; the nearest that are: timm:vit_tiny_patch16_"),
        ({"model": "timm:resnet50"}, "is a convnet and has no patch_size; set what it has in extra"),
        ({"model": "timm:deit_tiny_distilled_patch16_224"}, "distilled head"),
        ({"model": "timm:vit_small_patch16_18x2_224"}, "it is built of ParallelThingsBlock"),
        ({"model": "timm:vit_base_patch16_siglip_224"}, "no class token"),
        ({"extra": {"embed_dim": 64}}, "extra.embed_dim is not yours to set: set width"),
        ({"extra": {"patch_drop_rate": 0.5}}, "extra.patch_drop_rate"),
        ({"extra": {"no_such_thing": 1}}, "no_such_thing"),
        ({"num_heads": 5}, "divisible"),
        ({"patch_size": 12}, "do not split into the 12-pixel patches"),
    ],
)
def test_towers_that_cannot_be_built_are_refused_with_a_reason(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(**settings)


def test_extra_arguments_reach_timm():
    tower = tiny(extra={"drop_path_rate": 0.1, "init_values": 0.5})
    assert tower.model.blocks[1].drop_path1.drop_prob == pytest.approx(0.1)
    assert tower.model.blocks[0].ls1.gamma.shape == (32,)


def test_pictures_that_do_not_split_into_patches_are_refused():
    with pytest.raises(ValueError, match="33 x 32 pixels does not split into patches of 8"):
        tiny()(random_pixels(33, 32))


def classifier_file(path: Path, **settings) -> nn.Module:
    """A timm classifier, and its half-precision weights at `path`."""
    torch.manual_seed(4)
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32, "num_classes": 7}
    model = shaken(timm.create_model("deit_tiny_patch16_224", **sizes | settings)).half().float().eval()
    save_file({name: value.half() for name, value in model.state_dict().items()}, path)
    return model


@torch.no_grad()
def test_a_half_precision_timm_file_loads_in_full_precision_and_agrees(tmp_path):
    model = classifier_file(tmp_path / "w.safetensors")
    tower = tiny("timm:deit_tiny_patch16_224", num_cls=1)
    mask_token = tower.mask_token.clone()
    load_timm_weights(tower, tmp_path / "w.safetensors")
    pixels = random_pixels(32, 32)
    expected = model.forward_features((pixels - tower.pixel_mean) / tower.pixel_std)
    torch.testing.assert_close(together(tower(pixels)), expected, atol=1e-5, rtol=0)
    assert tower.model.norm.weight.dtype == torch.float32
    assert torch.equal(tower.mask_token, mask_token)


@torch.no_grad()
def test_a_norm_behind_the_pooling_becomes_the_final_norm(tmp_path):
    model = classifier_file(tmp_path / "w.safetensors", global_pool="avg")
    tower = tiny("timm:deit_tiny_patch16_224", num_cls=1)
    load_timm_weights(tower, tmp_path / "w.safetensors")
    assert torch.equal(tower.model.norm.weight, model.fc_norm.weight)


def test_timm_files_that_do_not_fit_are_refused_by_name(tmp_path):
    path = tmp_path / "w.safetensors"
    classifier_file(path)
    with pytest.raises(ValueError, match=r"cls_token should have shape \[1, 1, 48\], got \[1, 1, 32\]"):
        load_timm_weights(tiny("timm:deit_tiny_patch16_224", width=48, num_cls=1), path)
    with pytest.raises(ValueError, match="missing reg_token; surplus nothing"):
        load_timm_weights(tiny("timm:deit_tiny_patch16_224", num_cls=2), path)
    with pytest.raises(ValueError, match=r"surplus blocks.1"):
        load_timm_weights(tiny("timm:deit_tiny_patch16_224", depth=1, num_cls=1), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load_timm_weights(tiny("timm:deit_tiny_patch16_224", num_cls=1), path)
    with pytest.raises(ValueError, match="is not a file"):
        load_timm_weights(tiny("timm:deit_tiny_patch16_224", num_cls=1), tmp_path / "nothing")


@torch.no_grad()
def test_positions_of_another_grid_are_resampled_on_loading(tmp_path):
    classifier_file(tmp_path / "w.safetensors")
    native, larger = (tiny("timm:deit_tiny_patch16_224", image_size=size, num_cls=1) for size in (32, 48))
    for tower in (native, larger):
        load_timm_weights(tower, tmp_path / "w.safetensors")
    pixels = random_pixels(48, 48)
    # Resampling once on loading or at every pass is the same.
    expected = together(native(pixels))
    larger.mask_token.copy_(native.mask_token)
    torch.testing.assert_close(together(larger(pixels)), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_real_deit_weights_give_timms_features():
    path = next((folder / DEIT for folder in (ROOT, ROOT.parent) if (folder / DEIT).is_file()), None)
    if path is None:
        pytest.skip(f"needs {DEIT}")
    tower = build_image_tower(ImageTower(model="timm:deit_tiny_patch16_224", num_cls=1), 224).eval()
    load_timm_weights(tower, path)
    model = timm.create_model("deit_tiny_patch16_224", checkpoint_path=str(path)).eval()
    pixels = random_pixels(224, 224)
    expected = model.forward_features((pixels - tower.pixel_mean) / tower.pixel_std)
    # Measured: 0 (the same operations in the same order).
    torch.testing.assert_close(together(tower(pixels)), expected, atol=1e-5, rtol=0)


def test_a_trained_tower_survives_saving(tmp_path):
    tower, restored = tiny(), tiny(num_cls=2)
    optimizer = torch.optim.SGD(tower.parameters(), lr=0.01)
    together(tower(random_pixels(32, 32), random_mask(16))).square().mean().backward()
    optimizer.step()
    save_file(tower.state_dict(), tmp_path / "tower.safetensors")
    restored.load_state_dict(load_file(tmp_path / "tower.safetensors"))
    assert torch.equal(together(restored(random_pixels(32, 32))), together(tower(random_pixels(32, 32))))
