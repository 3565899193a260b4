"""The DPT head against transformers' TIPSv2-DPT on shared random weights, and released decoders by their layouts.

Worst errors measured (fp32, CPU, one thread, width 32, 4 x 6 and 5 x 7 patches, outputs of about unit size): depth in
metres 2.9e-6, normals 2.6e-6, class scores 3.0e-6. GELU without tanh would make 7e-4.
"""

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from distill.config import ImageTower
from distill.contracts import ImageEncoder, Statistics, Tokens
from distill.encoders.vit import TimmViT, build_vit
from distill.eval.features import quarter_tokens, quarters
from distill.eval.probes.dpt import DPTHead
from distill.eval.probes.dpt_weights import decoder_tensors, load_decoder
from distill.eval.probes.geometry_losses import expected_depth

WIDTH, CHANNELS, CLASSES = 32, 24, 5
TOLERANCE = 1e-5
OF_TRANSFORMERS = {
    "neck.reassemble_stage.readout_projects.{}.layers.0.": "reassemble.readout_projects.{}.",
    "neck.reassemble_stage.layers.{}.projection.": "reassemble.out_projections.{}.",
    "neck.reassemble_stage.layers.{}.resize.": "reassemble.resize_layers.{}.",
    "neck.convs.{}.": "convs.{}.",
    "neck.fusion_stage.layers.{}.projection.": "fusion_blocks.{}.out_conv.",
    "neck.fusion_stage.layers.{}.residual_layer2.convolution": "fusion_blocks.{}.main_unit.conv",
    "neck.fusion_stage.layers.{}.residual_layer1.convolution": "fusion_blocks.{}.residual_unit.conv",
    "decoder.project.": "project.",
    "decoder.head.": "head.",
}
"""Parts of transformers' names, and ours."""


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    backbone = transformers.Tipsv2VisionConfig(
        hidden_size=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = transformers.Tipsv2DptConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[WIDTH // 8, WIDTH // 4, WIDTH // 2, WIDTH],
        fusion_hidden_size=CHANNELS,
        num_depth_bins=64,
        num_labels=CLASSES,
    )
    model = transformers.Tipsv2DptForDensePrediction(config).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        # Outputs of about unit size, which the tolerance is meant for.
        scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
        parameter.data = drawn * scale + (1.0 if "norm" in name and name.startswith("backbone") else 0.0)
    return model


def our_names(model: nn.Module, decoder: str) -> dict[str, Tensor]:
    """The tensors of one of their decoders under our names."""
    found = {}
    for name, value in model.state_dict().items():
        short = name.removeprefix(f"{decoder}_")
        if short == name:
            continue
        place = next((part for part in short.split(".") if part.isdigit()), "")
        old, new = next(
            (old.format(place), new.format(place))
            for old, new in OF_TRANSFORMERS.items()
            if short.startswith(old.format(place))
        )
        found[short.replace(old, new, 1)] = value.clone()
    return found


def seen_by(model: nn.Module, pixels: Tensor) -> tuple[Tokens, ...]:
    """The four maps their necks read."""
    grid = (pixels.shape[2] // 14, pixels.shape[3] // 14)
    maps = model.backbone(pixels).feature_maps
    return tuple(Tokens(cls=each[:, :2], patches=each[:, 2:], grid=grid) for each in maps)


def pictures(rows: int, columns: int) -> Tensor:
    return torch.rand(2, 3, 14 * rows, 14 * columns, generator=torch.Generator().manual_seed(1))


def head_of(decoder: str, tensors: dict[str, Tensor]) -> DPTHead:
    num_outputs = {"depth": 64, "normals": 3, "segmentation": CLASSES}[decoder]
    head = DPTHead(width=WIDTH, num_outputs=num_outputs, channels=CHANNELS, relu=decoder == "depth").eval()
    head.load_state_dict(tensors, strict=True)
    return head


@pytest.mark.parametrize("grid", [(4, 6), (5, 7)])
@torch.no_grad()
def test_the_heads_say_what_those_of_transformers_say(grid, theirs):
    pixels = pictures(*grid)
    expected, layers = theirs(pixels), seen_by(theirs, pixels)
    found = {name: head_of(name, our_names(theirs, name))(layers) for name in ("depth", "normals", "segmentation")}
    depth = expected_depth(found["depth"], min_depth=0.001, max_depth=10.0, floor=0.001)
    worst = {
        "depth": (depth - expected.predicted_depth).abs().max().item(),
        "normals": (found["normals"] - expected.normals).abs().max().item(),
        "segmentation": (found["segmentation"] - expected.segmentation_logits).abs().max().item(),
    }
    assert max(worst.values()) <= TOLERANCE, worst
    assert depth.std() > 0.1


def stored(model: nn.Module, decoder: str, layout: str) -> dict[str, Tensor]:
    """One decoder as it is released: with a prefix for the body, and another for the last layer."""
    body, last = {
        "flat": ("", f"{decoder}_head."),
        "nested": ("dpt.", "head."),
        "together": (f"{decoder}_head.", f"{decoder}_head.{decoder}_head."),
    }[layout]
    return {
        last + name.removeprefix("head.") if name.startswith("head.") else body + name: value
        for name, value in our_names(model, decoder).items()
    }


@pytest.mark.parametrize("layout", ["flat", "nested"])
@pytest.mark.parametrize("decoder", ["depth", "normals", "segmentation"])
def test_a_released_archive_of_one_decoder_loads(decoder, layout, theirs, tmp_path):
    arrays = {name: value.numpy() for name, value in stored(theirs, decoder, layout).items()}
    with (tmp_path / "decoder_dpt_pytorch.zip").open("wb") as file:
        np.savez(file, **arrays)
    head = load_decoder(tmp_path / "decoder_dpt_pytorch.zip", decoder)
    expected = head_of(decoder, our_names(theirs, decoder))
    assert head.relu is expected.relu and not head.training
    for name, value in expected.state_dict().items():
        assert torch.equal(head.state_dict()[name], value), name


def test_a_released_folder_holds_all_three_decoders_beside_their_encoder(theirs, tmp_path):
    together = {"vision_encoder.norm.weight": torch.ones(3)}
    for decoder in ("depth", "normals", "segmentation"):
        together |= stored(theirs, decoder, "together")
    save_file(together, tmp_path / "model.safetensors")
    for decoder in ("depth", "normals", "segmentation"):
        expected = our_names(theirs, decoder)
        assert decoder_tensors(together, decoder).keys() == expected.keys()
        found = load_decoder(tmp_path, decoder).state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_files_that_hold_no_such_decoder_are_refused(theirs, tmp_path):
    with pytest.raises(ValueError, match="is not a file"):
        load_decoder(tmp_path, "depth")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match=r"not a complete \.npz archive"):
        load_decoder(tmp_path / "text.npz", "depth")
    np.savez(tmp_path / "objects.npz", things=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="plain arrays"):
        load_decoder(tmp_path / "objects.npz", "depth")
    tensors = stored(theirs, "depth", "together")
    save_file(tensors, tmp_path / "depth.safetensors")
    with pytest.raises(ValueError, match="the normals decoder lacks"):
        load_decoder(tmp_path / "depth.safetensors", "normals")
    load_decoder(tmp_path / "depth.safetensors", "depth", width=WIDTH)
    with pytest.raises(ValueError, match="reads tokens that are 32 wide, and those of this encoder are 48 wide"):
        load_decoder(tmp_path / "depth.safetensors", "depth", width=48)
    four = {name: value for name, value in DPTHead(width=8, num_outputs=4, channels=8).state_dict().items()}
    save_file(four, tmp_path / "four.safetensors")
    with pytest.raises(ValueError, match="has 4 outputs, and a normal has three numbers"):
        load_decoder(tmp_path / "four.safetensors", "normals")
    del tensors["depth_head.convs.1.weight"]
    save_file(tensors, tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match=r"missing convs\.1\.weight"):
        load_decoder(tmp_path / "cut.safetensors", "depth")


@pytest.mark.parametrize(
    ("num_layers", "released"),
    [(12, (2, 5, 8, 11)), (24, (5, 11, 17, 23)), (27, (6, 13, 20, 26)), (40, (9, 19, 29, 39))],
)
def test_the_blocks_that_are_read_are_the_released_decoders(num_layers, released):
    image = ImageEncoder()
    image.num_layers = num_layers
    assert quarters(image) == tuple(block + 1 for block in released)


@pytest.fixture(scope="module")
def tower() -> TimmViT:
    torch.manual_seed(0)
    settings = ImageTower(patch_size=8, width=32, depth=6, num_heads=2)
    return build_vit(settings, 32, Statistics(mean=(0.5,) * 3, std=(0.25,) * 3)).eval()


@torch.no_grad()
def test_a_tower_gives_its_blocks_behind_the_final_norm(tower):
    pixels = torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(2))
    final, before = tower(pixels), tower(pixels, layers=(2, 5)).layers
    second, fifth, last = tower.intermediate(pixels, (2, 5, 6))
    assert torch.equal(last.patches, final.patches) and torch.equal(last.cls, final.cls)
    for found, layer in ((second, before[0]), (fifth, before[1])):
        torch.testing.assert_close(found.patches, tower.model.norm(layer), rtol=0, atol=1e-6)
        assert found.grid == (3, 5) and found.cls.shape == final.cls.shape
    with pytest.raises(ValueError, match=r"layers \[7\]"):
        tower.intermediate(pixels, (7,))


def test_a_tower_without_earlier_blocks_says_what_to_do():
    with pytest.raises(ValueError, match="probe it with a linear head"):
        ImageEncoder().intermediate(torch.rand(1, 3, 8, 8), (1,))


def test_pictures_of_any_size_reach_the_blocks(tower):
    layers = quarter_tokens(tower, torch.rand(1, 3, 21, 30), precision="fp32")
    assert [each.grid for each in layers] == [(3, 4)] * 4
    head = DPTHead(width=32, num_outputs=2, channels=8)
    assert head(layers).shape == (1, 2, 32, 32)


def test_every_parameter_of_a_head_is_heard():
    head = DPTHead(width=16, num_outputs=3, channels=8, relu=True)
    grid = (4, 4)
    layers = [Tokens(cls=torch.rand(1, 2, 16), patches=torch.rand(1, 16, 16), grid=grid) for _ in range(4)]
    head(layers).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters())
