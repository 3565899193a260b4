"""The transformers family: our tokens are the models' own, and the same weights say the same in timm.

Worst errors measured (fp32, CPU, one thread, tokens of about unit size): tokens and text embeddings against the model's
own 0; value features against hand-written last layers 0; earlier layers against its hidden states 0; logits 1.5e-6;
behind the image processor 3.4e-6; timm against transformers, patches and CLS: DINOv2 0, DINOv3 1.2e-6, SigLIP2 1.7e-6
(a norm weight off by 1% makes 2e-2).

Legend: B images, T tokens, D width.
"""

import copy
import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from distill.contracts import Statistics
from distill.encoders.dual import DualEncoder
from distill.encoders.vit import create_vit, wrap_vit
from distill.extras import quiet
from teachers.families import hf
from teachers.families.hf import KINDS, load

TOLERANCE = 1e-5
WIDTH, DEPTH, HEADS, WORDS = 32, 2, 2, ["<pad>", "<eos>", "<unk>", "a", "photo", "of", "cat", "dog"]
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
STATISTICS = Statistics(mean=tuple(MEAN), std=tuple(STD))
TRUNK = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
VISION = {"siglip2": TRUNK | {"intermediate_size": 48, "num_patches": 9, "patch_size": 8}}
VISION["siglip"] = VISION["clip"] = TRUNK | {"intermediate_size": 48, "image_size": 24, "patch_size": 8}
TEXT = TRUNK | {"intermediate_size": 40, "vocab_size": len(WORDS), "max_position_embeddings": 6}
TEXT |= {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
CONFIGS = {
    "dinov2": TRUNK | {"image_size": 42, "patch_size": 14},
    "dinov2_with_registers": TRUNK | {"image_size": 42, "patch_size": 14, "num_register_tokens": 4},
    "dinov3_vit": TRUNK | {"intermediate_size": 128, "image_size": 48, "patch_size": 16, "num_register_tokens": 4},
    "dinov3_convnext": {"hidden_sizes": [8, 8, 16, WIDTH], "depths": [1, 1, 1, 2], "layer_scale_init_value": 1.0},
}
for _kind in ("siglip", "siglip2", "clip"):
    CONFIGS[f"{_kind}_vision_model"] = VISION[_kind]
    CONFIGS[_kind] = {"vision_config": VISION[_kind], "text_config": TEXT}
CONFIGS["clip"] |= {"projection_dim": 20, "text_config": TEXT | {"hidden_size": 24}}
NATIVE = {"dinov2": 42, "dinov2_with_registers": 42, "dinov3_vit": 48, "dinov3_convnext": 64}
TWO_TOWERS = [name for name, kind in KINDS.items() if kind.with_text]


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """No parameter is 0 or 1 any more, so that none can be forgotten unseen."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = parameter.data + 0.2 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def write(folder: Path, model_type: str, **changes) -> Path:
    """A folder as it is released, with tiny random weights."""
    config = transformers.AutoConfig.for_model(model_type, **CONFIGS[model_type] | changes)
    model = randomise(getattr(transformers, KINDS[model_type].model)(config))
    with quiet(transformers):
        model.save_pretrained(folder)
    side = NATIVE.get(model_type, 24)
    size = {"max_num_patches": 9} if model_type.startswith("siglip2") else {"size": {"height": side, "width": side}}
    processors = {"siglip2": "Siglip2ImageProcessor", "clip": "CLIPImageProcessor"}
    settings = {"image_mean": MEAN, "image_std": STD, "patch_size": 8, **size}
    settings["image_processor_type"] = processors.get(model_type.split("_")[0], "SiglipImageProcessor")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: some-licence\n---\n# A model\n")
    if KINDS[model_type].with_text:
        words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        words.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
        special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp("released") / name, name) for name in CONFIGS}


@pytest.fixture
def folder(released, tmp_path) -> Path:
    """A DINOv2 folder to spoil."""
    return Path(shutil.copytree(released["dinov2"], tmp_path / "spoilt"))


@pytest.fixture
def pair(released, tmp_path) -> Path:
    """A SigLIP folder to spoil."""
    return Path(shutil.copytree(released["siglip"], tmp_path / "spoilt_pair"))


def theirs(folder: Path) -> nn.Module:
    with quiet(transformers):
        config = transformers.AutoConfig.from_pretrained(folder)
        return getattr(transformers, KINDS[config.model_type].model).from_pretrained(folder).eval()


def pictures(height: int, width: int) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def standardised(pixels: Tensor) -> Tensor:
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    return (ours - reference).abs().max().item()


def cut(pixels: Tensor, side: int) -> dict[str, Tensor]:
    """NaFlex's inputs, patch by patch."""
    rows, columns = pixels.shape[2] // side, pixels.shape[3] // side
    places = [(i * side, j * side) for i in range(rows) for j in range(columns)]
    patches = [pixels[:, :, y : y + side, x : x + side].permute(0, 2, 3, 1).flatten(1) for y, x in places]
    grids = torch.tensor([[rows, columns]] * len(pixels))
    mask = torch.ones(len(pixels), len(places), dtype=torch.long)
    return {"pixel_values": torch.stack(patches, dim=1), "spatial_shapes": grids, "pixel_attention_mask": mask}


def own_tokens(model: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """CLS and patches as transformers alone gives them."""
    kind, x = model.config.model_type, standardised(pixels)
    vision = model.vision_model if kind in TWO_TOWERS else model
    if kind.startswith("siglip"):
        output = vision(**cut(x, 8)) if kind.startswith("siglip2") else vision(x, interpolate_pos_encoding=True)
        return output.pooler_output, output.last_hidden_state
    if kind == "clip":
        patches = vision(x, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
        cls = model.get_image_features(x, interpolate_pos_encoding=True).pooler_output
        return cls, model.visual_projection(vision.post_layernorm(patches))
    if kind == "clip_vision_model":
        output = vision(x, interpolate_pos_encoding=True)
        return output.pooler_output, vision.post_layernorm(output.last_hidden_state[:, 1:])
    registers = 4 if kind in ("dinov2_with_registers", "dinov3_vit") else 0
    output = vision(x)
    return output.pooler_output, output.last_hidden_state[:, 1 + registers :]


def test_every_kind_is_tested():
    assert CONFIGS.keys() == KINDS.keys()


@pytest.mark.parametrize("model_type", KINDS)
@torch.no_grad()
def test_tokens_are_the_models_own_at_any_size(released, model_type):
    encoder, model = load(str(released[model_type]), None), theirs(released[model_type])
    image, side = encoder.image, NATIVE.get(model_type, 24)
    assert encoder.image_size == side and encoder.licence == "some-licence"
    assert encoder.name == f"transformers:{released[model_type]}" and encoder.source == str(released[model_type])
    assert encoder.heads is None and (encoder.text is None) == (model_type not in TWO_TOWERS)
    for height, width in ((side, side), (side + image.patch_size, side + 2 * image.patch_size)):
        pixels = pictures(height, width)
        tokens, (cls, patches) = image(pixels), own_tokens(model, pixels)
        assert tokens.grid == (height // image.patch_size, width // image.patch_size)
        assert tokens.cls.shape == (2, image.num_cls, image.width)
        assert error(tokens.cls[:, 0], cls) < TOLERANCE
        assert error(tokens.patches, patches) < TOLERANCE


@pytest.mark.parametrize("model_type", KINDS)
def test_towers_keep_the_contract(released, model_type):
    encoder = load(str(released[model_type]), None)
    image, pixels = encoder.image, pictures(64, 64)[:, :, : encoder.image_size, : encoder.image_size]
    assert not any(module.training for module in image.modules())
    for tokens in (image(pixels), image.values(pixels)):
        image.zero_grad()
        (tokens.patches.square().sum() + tokens.cls.square().sum()).backward()
        lowest = [p for name, p in image.named_parameters() if "patch_embed" in name or "stages.0." in name]
        assert lowest and all(parameter.grad.abs().sum() > 0 for parameter in lowest)
    for tower in filter(None, (image, encoder.text)):
        depths = {tower.layer_of(name) for name, _ in tower.named_parameters()}
        has_embeddings = model_type != "dinov3_convnext"
        assert depths == set(range(0 if has_embeddings else 1, tower.num_layers + 1))
    with pytest.raises(ValueError, match="no mask token"):
        image(pixels, torch.zeros(2, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match=f"use multiples of {image.patch_size}"):
        image(pictures(image.patch_size + 1, image.patch_size))
    assert torch.equal(copy.deepcopy(image)(pixels).patches, image(pixels).patches)


@pytest.mark.parametrize("model_type", [kind for kind in KINDS if kind != "dinov3_convnext"])
@torch.no_grad()
def test_earlier_layers_are_the_models_own_hidden_states_taken_the_way_of_the_last(released, model_type):
    image, model = load(str(released[model_type]), None).image, theirs(released[model_type])
    side = NATIVE.get(model_type, 24)
    pixels = pictures(side, side + image.patch_size)
    first, last, again = image.intermediate(pixels, (1, DEPTH, 1))
    whole = image(pixels)
    assert torch.equal(last.patches, whole.patches) and torch.equal(last.cls, whole.cls)
    assert torch.equal(again.patches, first.patches) and first.grid == whole.grid
    vision = model.vision_model if model_type in TWO_TOWERS else model
    x = standardised(pixels)
    inputs = cut(x, 8) if model_type.startswith("siglip2") else {"pixel_values": x}
    resampled = {"interpolate_pos_encoding": True} if model_type.split("_")[0] in ("siglip", "clip") else {}
    state = vision(**inputs, **resampled, output_hidden_states=True).hidden_states[1]
    norms = {"dinov2": "layernorm", "dinov3": "norm"}
    normed = vision.get_submodule(norms.get(model_type.split("_")[0], "post_layernorm"))(state)
    cls = vision.head(normed) if model_type.startswith("siglip") else normed[:, 0]
    patches = normed[:, -first.patches.shape[1] :]
    if model_type == "clip":
        cls, patches = model.visual_projection(cls), model.visual_projection(patches)
    assert error(first.cls[:, 0], cls) < TOLERANCE and error(first.patches, patches) < TOLERANCE
    assert error(first.patches, whole.patches) > 0.01
    assert image.gives_blocks and not any(module._forward_hooks for module in image.modules())
    with pytest.raises(ValueError, match="blocks 1 to 2"):
        image.intermediate(pixels, (DEPTH + 1,))


def test_a_convnet_says_why_it_has_no_earlier_layers_to_give(released):
    image = load(str(released["dinov3_convnext"]), None).image
    assert not image.gives_blocks
    with pytest.raises(ValueError, match="grids and widths of their own"):
        image.intermediate(pictures(64, 64), (1,))


def test_what_is_behind_the_last_layer_counts_with_it(released):
    image = load(str(released["clip"]), None).image
    expected = {"projection.weight": 2, "model.post_layernorm.bias": 2, "model.pre_layrnorm.bias": 0}
    expected["model.encoder.layers.0.mlp.fc1.bias"] = 1
    assert {name: image.layer_of(name) for name in expected} == expected
    assert load(str(released["dinov3_vit"]), None).image.layer_of("model.model.layer.0.norm1.bias") == 1


def by_hand(x_BTD: Tensor, layer: nn.Module, *, siglip: bool) -> Tensor:
    """The last layer with the identity for its attention map, from its tensors alone."""
    w = layer.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6 if siglip else 1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    if siglip:
        x_BTD = x_BTD + linear(linear(norm(x_BTD, "layer_norm1"), "self_attn.v_proj"), "self_attn.out_proj")
        inner = F.gelu(linear(norm(x_BTD, "layer_norm2"), "mlp.fc1"), approximate="tanh")
        return x_BTD + linear(inner, "mlp.fc2")
    mixed = linear(linear(norm(x_BTD, "norm1"), "attention.v_proj"), "attention.o_proj")
    x_BTD = x_BTD + w["layer_scale1.lambda1"] * mixed
    inner = F.gelu(linear(norm(x_BTD, "norm2"), "mlp.up_proj"))
    return x_BTD + w["layer_scale2.lambda1"] * linear(inner, "mlp.down_proj")


@torch.no_grad()
def test_values_of_dino_are_a_last_layer_that_looks_at_itself(released):
    image, model = load(str(released["dinov3_vit"]), None).image, theirs(released["dinov3_vit"])
    pixels = pictures(48, 64)
    entering = model(standardised(pixels), output_hidden_states=True).hidden_states[-2]
    expected = model.norm(by_hand(entering, model.model.layer[-1], siglip=False))
    tokens = image.values(pixels)
    assert error(tokens.patches, expected[:, 5:]) < TOLERANCE
    assert error(tokens.cls, expected[:, :1]) < TOLERANCE
    assert error(image(pixels).patches, tokens.patches) > 0.01


@torch.no_grad()
def test_values_of_siglip_are_a_last_layer_that_looks_at_itself(released):
    image, model = load(str(released["siglip"]), None).image, theirs(released["siglip"]).vision_model
    pixels = pictures(24, 24)
    entering = model(standardised(pixels), output_hidden_states=True).hidden_states[-2]
    expected = model.post_layernorm(by_hand(entering, model.encoder.layers[-1], siglip=True))
    tokens = image.values(pixels)
    assert error(tokens.patches, expected) < TOLERANCE
    assert error(tokens.cls[:, 0], model.head(expected)) < TOLERANCE
    assert error(image(pixels).patches, tokens.patches) > 0.01


@pytest.mark.parametrize("model_type", KINDS)
@torch.no_grad()
def test_values_leave_the_model_as_it_was(released, model_type, monkeypatch):
    image, pixels = load(str(released[model_type]), None).image, pictures(64, 64)
    pixels = pixels[:, :, : NATIVE.get(model_type, 24), : NATIVE.get(model_type, 24)]
    before, values = image(pixels), image.values(pixels)
    assert torch.equal(image(pixels).patches, before.patches)
    assert torch.equal(values.patches, before.patches) == (model_type == "dinov3_convnext")

    def broken(*_args):
        raise RuntimeError("broken")

    monkeypatch.setattr(image, "layout", hf.Layout(**vars(image.layout) | {"read": broken}))
    with pytest.raises(RuntimeError, match="broken"):
        image.values(pixels)
    assert not any(module._forward_hooks for module in image.modules())


@pytest.mark.parametrize("model_type", ["siglip", "siglip2_vision_model", "clip"])
@torch.no_grad()
def test_pixels_become_what_the_image_processor_makes_of_pictures(released, model_type):
    processor = transformers.AutoImageProcessor.from_pretrained(released[model_type])
    bytes_ = (pictures(24, 24) * 255).round().to(torch.uint8)
    inputs = processor(list(bytes_), do_resize=False, do_center_crop=False, return_tensors="pt")
    model = theirs(released[model_type])
    features = model.get_image_features(**inputs) if model_type in TWO_TOWERS else model(**inputs)
    tokens = load(str(released[model_type]), None).image(bytes_.float() / 255)
    assert error(tokens.cls[:, 0], features.pooler_output) < TOLERANCE


@pytest.mark.parametrize("model_type", TWO_TOWERS)
@torch.no_grad()
def test_text_and_pictures_meet_as_in_the_model(released, model_type):
    encoder, model = load(str(released[model_type]), None), theirs(released[model_type])
    texts = ["a photo of a cat", "dog", "a a a a a a a a a a a a"]
    ids = encoder.text.tokenize(texts)
    tokenizer = transformers.AutoTokenizer.from_pretrained(released[model_type])
    assert ids.tolist() == tokenizer(texts, padding="max_length", truncation=True, max_length=6)["input_ids"]
    if model_type != "siglip2":  # whose tokenizer class reads our words letter by letter
        assert ids.tolist() == [[3, 4, 5, 3, 6, 1], [7, 1, 0, 0, 0, 0], [3, 3, 3, 3, 3, 1]]
    assert encoder.text.tokenize([]).shape == (0, 6)
    ours = DualEncoder(encoder.image, encoder.text).encode_text(texts)
    assert error(ours, model.get_text_features(ids).pooler_output) < TOLERANCE
    x = standardised(pictures(24, 24))
    output = model(input_ids=ids, **cut(x, 8) if model_type == "siglip2" else {"pixel_values": x})
    cls = encoder.image(pictures(24, 24)).cls[:, 0]
    logits = F.normalize(cls, dim=-1) @ F.normalize(ours, dim=-1).T / encoder.temperature
    bias = 0.0 if model_type == "clip" else model.logit_bias
    assert encoder.temperature == pytest.approx(math.exp(-model.logit_scale))
    assert error(logits + bias, output.logits_per_image) < 1e-4  # cosines over a temperature of 0.07 to 1


def test_texts_are_lower_cased_where_the_tokenizers_files_say_so(pair):
    assert load(str(pair), None).text.tokenize(["A Photo"])[0, 0] == 2
    settings = json.loads((pair / "tokenizer_config.json").read_text()) | {"do_lower_case": True}
    (pair / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load(str(pair), None).text.tokenize(["A Photo"])[0, :2].tolist() == [3, 4]


def both(*pairs: tuple[str, str]) -> dict[str, str]:
    return {f"{ours}.{part}": f"{other}.{part}" for ours, other in pairs for part in ("weight", "bias")}


def in_timm(weights: dict[str, Tensor], layers: str, attention: str, names: dict[str, str]) -> dict[str, Tensor]:
    """Tensors of timm's blocks from those of transformers' layers; q, k and v become one."""
    found = {}
    for i in range(DEPTH):
        here, there = f"blocks.{i}", f"{layers}.{i}"
        found |= {f"{here}.{ours}": weights[f"{there}.{other}"] for ours, other in names.items()}
        parts = [f"{there}.{attention}.{letter}_proj.weight" for letter in "qkv"]
        found[f"{here}.attn.qkv.weight"] = torch.cat([weights[part] for part in parts])
    return found


def worst_against_timm(name: str, tensors: dict[str, Tensor], folder: Path, *, sizes: tuple, **arguments) -> float:
    """Worst error of patches and of CLS against a plain timm model that holds exactly these tensors, and against the
    tower that the timm family makes of them."""
    shrunk = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    plain = {"num_classes": 0, "dynamic_img_size": True}
    oracle = timm.create_model(name, pretrained=False, **shrunk | plain | arguments).eval()
    oracle.load_state_dict(tensors)
    tower = wrap_vit(create_vit(name, shrunk | arguments), name, num_cls=None, statistics=STATISTICS).eval()
    tower.model.load_state_dict(tensors)
    image, worst = load(str(folder), None).image, 0.0
    for height, width in sizes:
        pixels = pictures(height, width)
        tokens, features = image(pixels), oracle.forward_features(standardised(pixels))
        worst = max(worst, error(tokens.patches, features[:, oracle.num_prefix_tokens :]))
        worst = max(worst, error(tokens.cls[:, 0], oracle.forward_head(features, pre_logits=True)))
        ours = tower(pixels)
        worst = max(worst, error(tokens.patches, ours.patches), error(tokens.cls, ours.cls))
    return worst


MLP = both(("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"))
DINO_BLOCK = both(("norm1", "norm1"), ("norm2", "norm2"), ("attn.proj", "attention.o_proj"))


@pytest.mark.parametrize("registers", [False, True])
@torch.no_grad()
def test_dinov2_says_the_same_in_timm(released, registers):
    folder = released["dinov2_with_registers" if registers else "dinov2"]
    w = theirs(folder).state_dict()
    scales = {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
    tensors = in_timm(w, "encoder.layer", "attention", DINO_BLOCK | MLP | scales)
    for i in range(DEPTH):
        parts = [w[f"encoder.layer.{i}.attention.{letter}_proj.bias"] for letter in "qkv"]
        tensors[f"blocks.{i}.attn.qkv.bias"] = torch.cat(parts)
    outside = both(("patch_embed.proj", "embeddings.patch_embeddings.projection"), ("norm", "layernorm"))
    tensors |= {ours: w[other] for ours, other in outside.items()}
    positions, cls_token = w["embeddings.position_embeddings"], w["embeddings.cls_token"]
    if registers:
        # timm adds no position to its CLS token: what transformers adds is part of the token there.
        tensors |= {"cls_token": cls_token + positions[:, :1], "pos_embed": positions[:, 1:]}
        tensors["reg_token"] = w["embeddings.register_tokens"]
    else:
        tensors |= {"cls_token": cls_token, "pos_embed": positions}
    name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    # At other sizes the two differ by 1e-2 without registers: timm resamples positions with antialiasing, transformers
    # does so, as the makers did, for models with registers only.
    sizes = ((42, 42), (56, 70)) if registers else ((42, 42),)
    assert worst_against_timm(name, tensors, folder, sizes=sizes, img_size=42) < TOLERANCE


@pytest.mark.parametrize("biases", [False, True])
@torch.no_grad()
def test_dinov3_says_the_same_in_timm(tmp_path, biases):
    folder = write(tmp_path / "dinov3", "dinov3_vit", query_bias=biases, value_bias=biases)
    w = theirs(folder).state_dict()
    names = DINO_BLOCK | both(("mlp.fc1", "mlp.up_proj"), ("mlp.fc2", "mlp.down_proj"))
    names |= {"gamma_1": "layer_scale1.lambda1", "gamma_2": "layer_scale2.lambda1"}
    if biases:
        names |= {"attn.q_bias": "attention.q_proj.bias", "attn.v_bias": "attention.v_proj.bias"}
    tensors = in_timm(w, "model.layer", "attention", names)
    outside = both(("patch_embed.proj", "embeddings.patch_embeddings"), ("norm", "norm"))
    outside |= {"cls_token": "embeddings.cls_token", "reg_token": "embeddings.register_tokens"}
    tensors |= {ours: w[other] for ours, other in outside.items()}
    name = "vit_small_patch16_dinov3" + "_qkvb" * biases
    sizes = ((48, 48), (64, 80))
    worst = worst_against_timm(name, tensors, folder, sizes=sizes, img_size=48, global_pool="token")
    assert worst < TOLERANCE


@torch.no_grad()
def test_siglip2_says_the_same_in_timm(released):
    """Of one fixed resolution. transformers runs the tanh form of GELU, which timm must be told."""
    folder = released["siglip"]
    w = {name.removeprefix("vision_model."): value for name, value in theirs(folder).state_dict().items()}
    names = both(("norm1", "layer_norm1"), ("norm2", "layer_norm2"), ("attn.proj", "self_attn.out_proj")) | MLP
    tensors = in_timm(w, "encoder.layers", "self_attn", names)
    for i in range(DEPTH):
        parts = [w[f"encoder.layers.{i}.self_attn.{letter}_proj.bias"] for letter in "qkv"]
        tensors[f"blocks.{i}.attn.qkv.bias"] = torch.cat(parts)
    pooling = (("proj", "attention.out_proj"), ("norm", "layernorm"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"))
    outside = both(("patch_embed.proj", "embeddings.patch_embedding"), ("norm", "post_layernorm"))
    outside |= both(*((f"attn_pool.{ours}", f"head.{other}") for ours, other in pooling))
    tensors |= {ours: w[other] for ours, other in outside.items()}
    for part in ("weight", "bias"):
        query, key, value = w[f"head.attention.in_proj_{part}"].chunk(3)
        tensors |= {f"attn_pool.q.{part}": query, f"attn_pool.kv.{part}": torch.cat([key, value])}
    tensors |= {"attn_pool.latent": w["head.probe"], "pos_embed": w["embeddings.position_embedding.weight"][None]}
    arguments = {"img_size": 24, "patch_size": 8, "mlp_ratio": 1.5, "act_layer": "gelu_tanh"}
    worst = worst_against_timm("vit_base_patch16_siglip_224", tensors, folder, sizes=((24, 24),), **arguments)
    assert worst < TOLERANCE


@pytest.mark.parametrize("model_type", KINDS)
def test_random_weights_need_only_a_config(model_type, released, tmp_path):
    shutil.copy(released[model_type] / "config.json", tmp_path)
    encoder = load(str(tmp_path), "random")
    assert encoder.source == "random" and encoder.licence is None
    size = 224 if model_type == "dinov3_convnext" else NATIVE.get(model_type, 24)
    assert encoder.image_size == size
    tokens = encoder.image(pictures(size, size))
    assert tokens.patches.isfinite().all() and tokens.patches.std() > 0
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        load(str(tmp_path), None)
    if encoder.text is not None:
        assert encoder.text(torch.tensor([[3, 1, 0]])).shape == (1, encoder.image.width)
        with pytest.raises(ValueError, match="without a tokenizer"):
            encoder.text.tokenize(["a"])


def test_weights_other_than_its_own_are_refused(folder):
    with pytest.raises(ValueError, match=r"brings its own weights.*got some\.pth"):
        load(str(folder), "some.pth")


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"size": {"shortest_edge": 60}, "crop_size": {"height": 56, "width": 56}}, 56),
        ({"size": {"height": 60, "width": 60}, "crop_size": {"height": 56, "width": 56}, "do_center_crop": False}, 56),
        ({"size": 42}, 42),
        ({"size": {"height": 50, "width": 50}}, 42),
    ],
)
def test_image_size_is_the_crop_in_whole_patches(folder, settings, size):
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD} | settings))
    assert load(str(folder), None).image_size == size


def test_the_processors_file_states_statistics_too(folder):
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert load(str(folder), None).image.pixel_mean.flatten().tolist() == pytest.approx(MEAN)


def test_pixels_stay_as_they_are_without_normalisation(folder):
    settings = json.loads((folder / "preprocessor_config.json").read_text()) | {"do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    image = load(str(folder), None).image
    assert torch.equal(image.standardise(pictures(14, 14)), pictures(14, 14))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"size": {"height": 42, "width": 56}}, "are not squares"),
        ({"size": {"height": 7, "width": 7}}, "are not squares of 14 pixels or more"),
        ({"size": {}}, "are not squares"),
        ({"image_mean": [0.5]}, "image_mean and image_std of three channels"),
        ({"rescale_factor": 1 / 127.5}, "only 1/255 is supported"),
    ],
)
def test_unusable_processor_settings_are_refused(folder, settings, complaint):
    stated = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(stated | settings))
    with pytest.raises(ValueError, match=complaint):
        load(str(folder), None)


@pytest.mark.parametrize(
    ("card", "licence"),
    [("---\nlicense: apache-2.0\n---\n", "apache-2.0"), ("no metadata", None), ("---\n: [\n---\n", None)],
)
def test_the_licence_is_what_the_card_states(folder, card, licence):
    (folder / "README.md").write_text(card)
    assert load(str(folder), None).licence == licence


def test_a_hub_name_is_looked_up_in_the_local_cache(released, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--someone--tiny"
    shutil.copytree(released["dinov2"], home / "snapshots" / "0123")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0123")
    encoder = load("someone/tiny", None)
    assert encoder.source == "someone/tiny" and encoder.name == "transformers:someone/tiny"
    with pytest.raises(ValueError, match="neither a folder nor in the local cache of the hub") as caught:
        load("someone/else", None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "nowhere", "a/b/c"])
def test_a_missing_folder_is_named(name):
    with pytest.raises(ValueError, match=f"transformers:{name}: there is no such folder"):
        load(name, None)


def test_a_file_is_no_folder(folder):
    with pytest.raises(ValueError, match="is a file; name the folder"):
        load(str(folder / "config.json"), None)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ('{"model_type": "resnet"}', "is of type resnet; known are dinov2, .*clip_vision_model"),
        ("{}", "is of type None; known are dinov2"),
        ('{"model_type": "tipsv2", "architectures": ["Tipsv2Model"]}', "use tips:"),
        ("{", "is not JSON"),
        ("[]", "holds a list"),
        ('{"model_type": "dinov2", "hidden_size": "wide"}', "not one that transformers accepts"),
    ],
)
def test_configs_of_no_known_model_are_refused(folder, config, complaint):
    (folder / "config.json").write_text(config)
    with pytest.raises(ValueError, match=complaint):
        load(str(folder), None)


def test_a_folder_without_config_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json"):
        load(str(folder), None)


def test_unknown_pixel_statistics_are_refused(folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"has no preprocessor_config\.json"):
        load(str(folder), None)


def test_pickled_weights_are_refused_with_a_way_out(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds pickled weights only.*write it anew with save_pretrained"):
        load(str(folder), None)


def test_truncated_weights_are_one_sentence(folder, capfd):
    stored = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(stored[: len(stored) // 2])
    with pytest.raises(ValueError, match="holds no complete safetensors weights") as caught:
        load(str(folder), None)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_missing_shard_is_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="holds no complete safetensors weights"):
        load(str(folder), None)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("layernorm.weight", None, r"lacks the tensor layernorm\.weight"),
        ("layernorm.weight", torch.ones(5), r"layernorm\.weight should have shape \[32\], got \[5\]"),
        ("encoder.layer.2.norm1.weight", torch.ones(32), r"has no place for the tensor encoder\.layer\.2"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder, capfd, name, value, complaint):
    tensors = load_file(folder / "model.safetensors")
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=complaint):
        load(str(folder), None)
    assert capfd.readouterr() == ("", "")


def test_a_classifier_is_left_out(released, folder):
    tensors = {f"dinov2.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    tensors["classifier.weight"] = torch.ones(10, 2 * WIDTH)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with torch.no_grad():
        ours, plain = (load(str(where), None).image(pictures(42, 42)) for where in (folder, released["dinov2"]))
    assert torch.equal(ours.patches, plain.patches)


def test_a_text_tower_without_tokenizer_is_refused(pair):
    (pair / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer for its text tower: copy tokenizer\.json"):
        load(str(pair), None)


def test_a_damaged_tokenizer_is_refused(pair):
    (pair / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="its tokenizer cannot be read"):
        load(str(pair), None)


def test_towers_without_a_common_space_are_refused(tmp_path):
    folder = write(tmp_path / "apart", "siglip", text_config=TEXT | {"projection_size": 20})
    with pytest.raises(ValueError, match="32 wide and text embeddings 20; they share no space"):
        load(str(folder), None)


def test_siglip_without_its_pooling_is_refused(tmp_path):
    folder = write(tmp_path / "headless", "siglip_vision_model", vision_use_head=False)
    with pytest.raises(ValueError, match="has no attention pooling"):
        load(str(folder), None)


def test_loading_is_quiet_and_leaves_logging_as_it_was(released, capfd):
    logging = transformers.utils.logging
    logging.set_verbosity_info()
    try:
        load(str(released["dinov2"]), None)
        assert logging.get_verbosity() == logging.INFO and logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_warning()
    assert capfd.readouterr() == ("", "")


def test_a_missing_package_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"needs the package transformers \(extra: hf\)"):
        load(str(folder), None)
