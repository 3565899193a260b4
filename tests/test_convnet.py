"""Convnets as image towers: against timm, what hidden patches hide, and what is refused."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from distill.config import ImageTower, Student, TextTower
from distill.encoders.batch_norm import (
    batch_norms,
    check_batch_norms,
    join_processes,
    mixes_pictures,
    running_statistics_stay,
)
from distill.encoders.convnet import TimmConvNet
from distill.encoders.dual import DualEncoder
from distill.encoders.image import build_image_tower
from distill.encoders.initialisation import initialise
from distill.encoders.timm_weights import load_timm_weights

NETWORKS = {
    "convnext": "test_convnext",
    "resnet": "test_resnet",
    "mobilenet v3": "mobilenetv3_small_050",
    "mobilenet v4": "mobilenetv4_conv_small_035",
    "efficientnet": "test_efficientnet",
    "efficientvit": "efficientvit_b0",
    "repvgg": "test_byobnet",
}
WITHOUT_BATCH_NORM = {"convnext"}


def tiny(network: str, *, image_size: int = 64, **settings) -> TimmConvNet:
    torch.manual_seed(0)
    settings = {"model": f"timm:{NETWORKS.get(network, network)}", "num_cls": 1} | settings
    return shaken(build_image_tower(ImageTower(**settings), image_size)).eval()


def shaken(module: nn.Module) -> nn.Module:
    """Statistics and norms as after a training, so that no zero bias or unit scale hides a mistake."""
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith(("bias", "running_mean", "mask_pixel")):
                value.normal_(std=0.2)
            elif value.ndim == 1 and name.endswith(("weight", "gamma", "running_var")):
                value.uniform_(0.5, 1.5)
    return module


def random_pixels(height: int = 64, width: int = 64, count: int = 2) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def some_hidden(tower: TimmConvNet) -> Tensor:
    rows, columns = tower.grid(64, 64)
    hidden = torch.zeros(2, rows * columns, dtype=torch.bool)
    hidden[0, 1:] = hidden[1, 0] = True
    return hidden


def together(tokens) -> Tensor:
    return torch.cat([tokens.cls, tokens.patches], dim=1)


def classifier(network: str, path: Path) -> nn.Module:
    """timm's whole network with seven classes, and its weights in a file."""
    torch.manual_seed(3)
    model = shaken(timm.create_model(NETWORKS[network], num_classes=7)).eval()
    save_file(model.state_dict(), path)
    return model


@pytest.mark.parametrize("network", NETWORKS)
@torch.no_grad()
def test_tokens_are_timms_own_map_and_what_timm_makes_of_it_and_of_each_place(network: str, tmp_path: Path):
    model = classifier(network, tmp_path / "w.safetensors")
    tower = tiny(network)
    load_timm_weights(tower, tmp_path / "w.safetensors")
    pools_last = model.head_hidden_size == model.num_features
    for size in ((64, 64), (64, 96)):
        pixels = random_pixels(*size)
        tokens = tower(pixels)
        map_BDhw = model.forward_features((pixels - tower.pixel_mean) / tower.pixel_std)
        assert tokens.grid == map_BDhw.shape[-2:] == (size[0] // tower.patch_size, size[1] // tower.patch_size)
        assert tokens.cls.shape == (2, 1, tower.width) and tokens.layers == ()
        assert tokens.patches.shape == (2, tokens.grid[0] * tokens.grid[1], tower.width)
        pooled_BD = model.forward_head(map_BDhw, pre_logits=True) if pools_last else map_BDhw.mean(dim=(2, 3))
        # Measured: 0 for all networks, the same operations in the same order; values of the fourth reach 1,600.
        torch.testing.assert_close(tokens.cls[:, 0], pooled_BD, atol=1e-5, rtol=1e-6)
        for place in range(tokens.patches.shape[1]):
            row, column = divmod(place, tokens.grid[1])
            alone = map_BDhw[:, :, row : row + 1, column : column + 1]
            expected = model.forward_head(alone, pre_logits=True) if pools_last else alone.flatten(1)
            torch.testing.assert_close(tokens.patches[:, place], expected, atol=1e-5, rtol=1e-6)
    assert torch.equal(together(tower.values(pixels)), together(tokens))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
@pytest.mark.parametrize("network", NETWORKS)
@torch.no_grad()
def test_hidden_pixels_reach_no_output(network: str, training: bool):
    tower = tiny(network).train(training)
    pixels, hidden = random_pixels(), some_hidden(tower)
    sides = [64 // rows for rows in tower.grid(64, 64)]
    inside = hidden.view(2, 1, *tower.grid(64, 64)).repeat_interleave(sides[0], 2).repeat_interleave(sides[1], 3)
    seen = together(tower(pixels, hidden))
    assert torch.equal(seen, together(tower(torch.where(inside, 1 - pixels, pixels), hidden)))
    assert not torch.equal(seen, together(tower(torch.where(inside, pixels, 1 - pixels), hidden)))
    tower.mask_pixel += 0.5
    assert not torch.equal(seen, together(tower(pixels, hidden)))


@pytest.mark.parametrize("network", NETWORKS)
@torch.no_grad()
def test_hiding_nothing_is_the_same_as_no_mask(network: str):
    tower, pixels = tiny(network), random_pixels()
    nothing = torch.zeros_like(some_hidden(tower))
    assert torch.equal(together(tower(pixels)), together(tower(pixels, nothing)))


@pytest.mark.parametrize("network", NETWORKS)
def test_every_parameter_takes_part_in_every_pass_and_the_colour_of_the_mask_learns(network: str):
    tower = tiny(network).train()
    for hidden in (None, some_hidden(tower)):
        tower.zero_grad()
        together(tower(random_pixels(), hidden)).square().sum().backward()
        assert [name for name, parameter in tower.named_parameters() if parameter.grad is None] == []
        assert (tower.mask_pixel.grad.abs().sum() > 0) == (hidden is not None)


FIRST = {
    "convnext": ("stem.",),
    "resnet": ("conv1.", "bn1."),
    "mobilenet v3": ("conv_stem.", "bn1."),
    "mobilenet v4": ("conv_stem.", "bn1."),
    "efficientnet": ("conv_stem.", "bn1."),
    "efficientvit": ("stem.",),
    "repvgg": ("stem.",),
}
LAST = {
    "convnext": ("stages.3.", "head."),
    "resnet": ("layer4.",),
    "mobilenet v3": ("blocks.5.",),
    "mobilenet v4": ("blocks.4.",),
    "efficientnet": ("blocks.4.", "conv_head.", "bn2."),
    "efficientvit": ("stages.3.",),
    "repvgg": ("stages.3.",),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_layers_count_from_the_stem_to_the_last_stage_and_hold_every_parameter(network: str):
    tower = tiny(network)
    layers = {name: tower.layer_of(name) for name, _ in tower.named_parameters()}
    assert set(layers.values()) == set(range(tower.num_layers + 1))
    first, last = ({f"model.{start}" for start in starts[network]} for starts in (FIRST, LAST))
    assert {name for name, layer in layers.items() if layer == 0} == {
        name for name in layers if name.startswith(tuple(first)) or name == "mask_pixel"
    }
    assert {name for name, layer in layers.items() if layer == tower.num_layers} == {
        name for name in layers if name.startswith(tuple(last))
    }


def test_an_output_stride_makes_the_grid_denser():
    tower = tiny("resnet", extra={"output_stride": 8})
    assert (tower.patch_size, tower(random_pixels()).grid) == (8, (8, 8))


def test_what_no_token_passes_is_left_out():
    assert tiny("mobilenet v4").left_out == ("conv_head", "norm_head")
    assert tiny("efficientvit").left_out == ("head",)
    assert tiny("convnext").left_out == tiny("resnet").left_out == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_cls": 2}, "one pooled token: set num_cls=1"),
        ({"depth": 3}, "is a convnet and has no depth; set what it has in extra"),
        ({"extra": {"num_classes": 3}}, "extra.num_classes is not yours to set: an encoder has no classifier"),
        ({"extra": {"no_such_thing": 1}}, "no_such_thing"),
        ({"extra": {"in_chans": 1}}, "does not take pictures of 64 pixels"),
        ({"image_size": 80}, "80 x 80 pixels does not fit a convnet of stride 32; use multiples of 32"),
        ({"model": "timm:test_mambaout"}, "not in a feature map"),
        ({"model": "timm:caformer_s18"}, "has no group_matcher"),
        ({"model": "timm:xcit_nano_12_p8_224"}, r"Xcit ends in \(1, 65, 128\)"),
        ({"model": "timm:levit_128s"}, "does not take pictures of 64 pixels"),
    ],
)
def test_networks_that_are_no_towers_are_refused_with_a_reason(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        tiny("convnext", **settings)


def test_earlier_layers_and_dropped_patches_are_refused():
    tower = tiny("convnext")
    with pytest.raises(ValueError, match=r"layers \[2\] are asked for, but the stages of a convnet have grids"):
        tower(random_pixels(), layers=(2,))
    with pytest.raises(ValueError, match="needs every place of a picture and can drop none"):
        tower(random_pixels(), some_hidden(tower), drop=True)
    with pytest.raises(ValueError, match="grids and widths of their own"):
        tower.intermediate(random_pixels(), (1,))


def test_files_that_do_not_fit_are_refused_by_name(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    classifier("resnet", path)
    with pytest.raises(ValueError, match=r"missing head.norm.bias, .* and 94 more; surplus bn1.bias"):
        load_timm_weights(tiny("convnext"), path)
    wider = tiny("resnet", extra={"channels": [32, 48, 48, 128]})
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    with pytest.raises(ValueError, match=r"layer4\.0\.\S+ should have shape \[128\S*.*\], got \[96"):
        load_timm_weights(wider, path)
    assert all(torch.equal(value, before[name]) for name, value in wider.state_dict().items())
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load_timm_weights(tiny("resnet"), path)


def test_a_file_from_before_batches_were_counted_loads(tmp_path: Path):
    model = classifier("resnet", tmp_path / "new.safetensors")
    old = {name: value for name, value in model.state_dict().items() if "num_batches_tracked" not in name}
    save_file(old, tmp_path / "old.safetensors")
    tower = tiny("resnet")
    load_timm_weights(tower, tmp_path / "old.safetensors")
    assert all(torch.equal(tower.model.state_dict()[name], value) for name, value in old.items() if "fc." not in name)


def test_a_convnet_does_not_start_from_a_transformer():
    """Both have pixel statistics, which are no start."""
    vit = build_image_tower(ImageTower(patch_size=16, width=32, depth=1, num_heads=2), 64)
    settings = Student(image=ImageTower(init="teacher", num_cls=1), text=TextTower(kind="none"))
    with pytest.raises(ValueError, match="no tensor of teacher has a name that the student knows"):
        initialise(DualEncoder(tiny("resnet"), None), None, settings=settings, teacher=DualEncoder(vit, None))


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for enabled in (False, True):
        tower = tiny("convnext", gradient_checkpointing=enabled).train()
        together(tower(random_pixels(), some_hidden(tower))).square().sum().backward()
        gradients.append([parameter.grad for parameter in tower.parameters()])
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


@pytest.mark.parametrize("network", NETWORKS)
def test_batch_norms_look_at_the_batch_while_they_are_trained_and_never_once_frozen(network: str):
    tower, pixels = tiny(network), random_pixels(count=4)
    assert (len(batch_norms(tower)) == 0) == (network in WITHOUT_BATCH_NORM)
    assert mixes_pictures(tower.train()) == (network not in WITHOUT_BATCH_NORM)
    assert not mixes_pictures(tower.eval())
    tower.requires_grad_(False).train()
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    together_now, alone = together(tower(pixels)), together(tower(pixels[:1]))
    torch.testing.assert_close(together_now[:1], alone, atol=1e-5, rtol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


def test_running_statistics_stay_where_they_are_told_to():
    one, other = tiny("efficientnet").train(), tiny("efficientnet").train()
    before = {name: value.clone() for name, value in one.named_buffers()}
    with running_statistics_stay(one):
        seen = together(one(random_pixels()))
    assert all(torch.equal(value, before[name]) for name, value in one.named_buffers())
    assert torch.equal(seen, together(other(random_pixels())))  # the same, by the statistics of the batch
    one(random_pixels())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(one.buffers(), other.buffers(), strict=True))
    assert not torch.equal(before["model.bn1.running_mean"], one.model.bn1.running_mean)


def test_what_batch_norms_cannot_promise_is_refused_unless_they_are_frozen():
    tower = tiny("resnet")
    for settings in ({"accumulate": 2}, {"gradient_checkpointing": True}):
        asked = {"accumulate": 1, "gradient_checkpointing": False} | settings
        with pytest.raises(ValueError, match=f"{next(iter(settings))}.*has batch norms"):
            check_batch_norms(tower, **asked)
        check_batch_norms(tiny("convnext"), **asked)
        check_batch_norms(tiny("resnet").requires_grad_(False), **asked)


def test_processes_share_statistics_on_gpus_and_are_refused_on_cpus():
    tower = tiny("resnet").train()
    names, parameters = list(tower.state_dict()), list(tower.parameters())
    with pytest.raises(ValueError, match="cannot synchronise between processes on CPUs"):
        join_processes(tower, torch.device("cpu"))
    join_processes(tower, torch.device("cuda"))
    assert all(isinstance(norm, nn.SyncBatchNorm) and norm.training for norm in batch_norms(tower))
    assert list(tower.state_dict()) == names
    assert all(ours is theirs for ours, theirs in zip(tower.parameters(), parameters, strict=True))
    for untouched in (tiny("convnext"), tiny("resnet").requires_grad_(False)):
        join_processes(untouched, torch.device("cpu"))
