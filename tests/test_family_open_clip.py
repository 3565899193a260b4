"""The open_clip family: our tokens are open_clip's own, and every place gets what it would alone.

Worst errors measured (fp32, CPU, one thread, embeddings of size 1 to 4): CLS, patches, values and text against
open_clip's own 0, at the trained size and at another; earlier blocks against models that end there 0; the mean of the
places against CLS 1.8e-7; logits 4.8e-7.

Legend: B images, T tokens, N patches, D width, E width of the shared space.
"""

import copy
import json
import math
import shutil
import sys
import warnings
from pathlib import Path

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image, to_tensor
from transformers import PreTrainedTokenizerFast

from distill.encoders.dual import DualEncoder
from teachers.families.open_clip import load
from teachers.families.open_clip_names import DEFAULT_STATISTICS, describe
from teachers.families.open_clip_towers import ClipViT, TimmMap, TimmTransformer

TOLERANCE = 1e-5
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
WORDS = ["<pad>", "<unk>", "a", "photo", "of", "cat", "dog", "<eos>"]
SMALL_VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 24, "patch_size": 8}
SHRUNK = {
    "vit_base_patch16_siglip_224": SMALL_VIT,
    "vit_pe_core_base_patch16_224": SMALL_VIT,
    "eva02_base_patch16_clip_224": SMALL_VIT,
    "vit_medium_patch16_gap_256": SMALL_VIT,
    "vit_base_mci_224": {"depth": 2, "num_heads": 4, "img_size": 48, "mlp_ratio": 0.05},
    "convnext_base": {"depths": (1, 1, 1, 2), "dims": (8, 8, 16, 32), "ls_init_value": 0.5},
    "fastvit_mci0": {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 16, 32)},
}
"""Arguments that make timm's towers small."""

OWN = {"image_size": 24, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
SINES = {"pos_embed_type": "sin_cos_2d", "no_ln_pre": True, "ls_init_value": 0.5}
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
WORDED = TEXT | {"vocab_size": 8, "hf_tokenizer_name": "someone/words", "no_causal_mask": True, "pool_type": "last"}
WORDED |= {"proj_bias": True, "tokenizer_kwargs": {"clean": "canonicalize"}}


def timm_tower(name: str, pool: str | None, proj: str | None, side: int = 24) -> dict:
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": side}


CONFIGS = {
    "clip": {"vision_cfg": OWN},
    "clip_quick": {"vision_cfg": OWN, "quick_gelu": True},
    "clipa": {"vision_cfg": OWN | SINES | {"pool_type": "avg"}, "custom_text": True},
    "clipa_after": {"vision_cfg": OWN | {"pool_type": "avg", "final_ln_after_pool": True}},
    "siglip": {"vision_cfg": timm_tower("vit_base_patch16_siglip_224", "map", "none"), "text_cfg": WORDED},
    "pe_core": {"vision_cfg": timm_tower("vit_pe_core_base_patch16_224", "map", None)},
    "eva": {"vision_cfg": timm_tower("eva02_base_patch16_clip_224", "token", None)},
    "gap": {"vision_cfg": timm_tower("vit_medium_patch16_gap_256", "", "linear")},
    "mobileclip_b": {"vision_cfg": timm_tower("vit_base_mci_224", "token", None, 48)},
    "convnext": {"vision_cfg": timm_tower("convnext_base", "", "linear", 64)},
    "convnext_d": {"vision_cfg": timm_tower("convnext_base", "", "mlp", 64)},
    "mobileclip": {"vision_cfg": timm_tower("fastvit_mci0", "avg", None, 64)},
}
CONFIGS["siglip"] |= {"embed_dim": 32, "init_logit_bias": -10, "custom_text": True}
TRANSFORMERS = [name for name in CONFIGS if name not in ("convnext", "convnext_d", "mobileclip")]
TOWERS = {"clip": ClipViT, "siglip": TimmTransformer, "pe_core": TimmTransformer, "mobileclip": TimmMap}


@pytest.fixture(scope="module", autouse=True)
def small():
    """timm makes the towers of SHRUNK small, for open_clip and for us alike."""
    create = timm.create_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", lambda name, **given: create(name, **SHRUNK.get(name, {}) | given))
        yield


def randomise(module: nn.Module) -> nn.Module:
    """No parameter is 0 or 1 any more, and no running mean 0, so that none can be forgotten unseen."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = parameter.data + 0.1 * torch.randn(parameter.shape, generator=generator)
    for buffer in module.buffers():
        if buffer.is_floating_point() and buffer.isfinite().all():
            buffer += 0.1 * torch.rand(buffer.shape, generator=generator)
    return module.eval()


def theirs(folder: Path, **arguments) -> nn.Module:
    return open_clip.create_model(f"local-dir:{folder}", **arguments).eval()


def write(folder: Path, kind: str, **changes) -> Path:
    """A folder in the layout of open_clip's models on the hub, with small random weights."""
    folder.mkdir()
    config = {"embed_dim": 20, "text_cfg": TEXT} | CONFIGS[kind] | changes
    settings = {"model_cfg": config, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    save_file(randomise(theirs(folder)).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    if "hf_tokenizer_name" in config["text_cfg"]:
        words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> dict[str, Path]:
    return {kind: write(tmp_path_factory.mktemp("released") / kind, kind) for kind in CONFIGS}


@pytest.fixture
def folder(released, tmp_path) -> Path:
    """A CLIP folder to spoil."""
    return Path(shutil.copytree(released["clip"], tmp_path / "spoilt"))


@pytest.fixture
def worded(released, tmp_path) -> Path:
    """A SigLIP folder to spoil."""
    return Path(shutil.copytree(released["siglip"], tmp_path / "spoilt_siglip"))


def pictures(height: int, width: int) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def standardised(pixels: Tensor) -> Tensor:
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    return (ours - reference).abs().max().item()


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_cls_is_open_clips_own_image_embedding(released, kind):
    encoder, model = load(str(released[kind]), None), theirs(released[kind])
    side = encoder.image_size
    assert (side, side) == model.visual.image_size
    tokens = encoder.image(pictures(side, side))
    assert tokens.cls.shape == (2, 1, encoder.image.width)
    assert tokens.patches.shape == (2, (side // encoder.image.patch_size) ** 2, encoder.image.width)
    assert error(tokens.cls[:, 0], model.encode_image(standardised(pictures(side, side)))) < TOLERANCE
    assert encoder.name == f"open_clip:{released[kind]}" and encoder.source == str(released[kind])
    assert encoder.licence == "mit" and encoder.heads is None
    assert isinstance(encoder.image, TOWERS.get(kind, nn.Module))


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_positions_are_resampled_for_pictures_of_other_sizes(released, kind):
    encoder = load(str(released[kind]), None)
    side = encoder.image_size + encoder.image.patch_size
    model = theirs(released[kind], force_image_size=side)
    tokens = encoder.image(pictures(side, side))
    assert error(tokens.cls[:, 0], model.encode_image(standardised(pictures(side, side)))) < TOLERANCE
    wide = encoder.image(pictures(side, side + encoder.image.patch_size))
    assert wide.grid == (side // encoder.image.patch_size, side // encoder.image.patch_size + 1)
    assert wide.patches.shape[1] == math.prod(wide.grid)


@pytest.mark.parametrize("kind", ["siglip", "gap", "convnext", "convnext_d", "mobileclip"])
@torch.no_grad()
def test_a_picture_of_one_place_is_that_place(released, kind):
    image = load(str(released[kind]), None).image
    tokens = image(pictures(image.patch_size, image.patch_size))
    assert error(tokens.patches, tokens.cls) < TOLERANCE


@pytest.mark.parametrize("kind", ["clipa", "gap", "mobileclip"])
@torch.no_grad()
def test_the_mean_of_all_places_is_the_picture_where_only_linear_layers_follow_the_mean(released, kind):
    encoder = load(str(released[kind]), None)
    tokens = encoder.image(pictures(encoder.image_size, encoder.image_size))
    assert error(tokens.patches.mean(1), tokens.cls[:, 0]) < TOLERANCE


@torch.no_grad()
def test_patches_of_clip_take_the_way_of_the_class_token(released):
    image, model = load(str(released["clip"]), None).image, theirs(released["clip"])
    seen = []
    model.visual.transformer.register_forward_hook(lambda module, args, output: seen.append(output))
    cls = model.encode_image(standardised(pictures(24, 24)))
    w = model.visual.state_dict()
    normed = F.layer_norm(seen[0], (32,), w["ln_post.weight"], w["ln_post.bias"])
    tokens = image(pictures(24, 24))
    assert error(tokens.patches, normed[:, 1:] @ w["proj"]) < TOLERANCE
    assert error(tokens.cls[:, 0], cls) < TOLERANCE


@torch.no_grad()
def test_patches_of_siglip_are_pooled_alone(released):
    """Attention over one token passes its value, whatever the query."""
    image, model = load(str(released["siglip"]), None).image, theirs(released["siglip"])
    x_BND = model.visual.trunk.forward_features(standardised(pictures(24, 24)))
    w = {name.removeprefix("attn_pool."): value for name, value in model.visual.trunk.state_dict().items()}
    value = F.linear(x_BND, w["kv.weight"].chunk(2)[1], w["kv.bias"].chunk(2)[1])
    mixed = F.linear(value, w["proj.weight"], w["proj.bias"])
    inner = F.layer_norm(mixed, (32,), w["norm.weight"], w["norm.bias"], eps=1e-6)
    inner = F.gelu(F.linear(inner, w["mlp.fc1.weight"], w["mlp.fc1.bias"]))
    expected = mixed + F.linear(inner, w["mlp.fc2.weight"], w["mlp.fc2.bias"])
    assert error(image(pictures(24, 24)).patches, expected) < TOLERANCE


def blocks_of(visual: nn.Module) -> nn.Module:
    return visual.trunk.blocks if hasattr(visual, "trunk") else visual.transformer.resblocks


def blind(block: nn.Module) -> None:
    """Let every token see nothing but itself, with the mask that the block's own attention takes."""
    as_usual = block.forward

    def masked(x: Tensor, **arguments) -> Tensor:
        alone = torch.full((x.shape[1], x.shape[1]), -torch.inf).fill_diagonal_(0.0)
        return as_usual(x, **arguments | {"attn_mask": alone})

    block.forward = masked


@pytest.mark.parametrize("kind", TRANSFORMERS)
@torch.no_grad()
def test_values_are_a_last_block_in_which_every_token_sees_only_itself(released, kind):
    """The library's own model, its last block under a mask that leaves each token nothing but itself."""
    encoder, model = load(str(released[kind]), None), theirs(released[kind])
    pixels = pictures(encoder.image_size, encoder.image_size)
    tokens, plain = encoder.image.values(pixels), encoder.image(pixels)
    blind(blocks_of(model.visual)[-1])
    assert error(tokens.cls[:, 0], model.encode_image(standardised(pixels))) < TOLERANCE
    blind(blocks_of(encoder.image.visual)[-1])
    assert error(tokens.patches, encoder.image(pixels).patches) < TOLERANCE
    assert error(tokens.patches, plain.patches) > 0.01


@pytest.mark.parametrize("kind", TRANSFORMERS)
@torch.no_grad()
def test_earlier_blocks_are_a_model_of_the_library_that_ends_there(released, kind):
    """open_clip's own model with its later blocks cut off."""
    encoder, model = load(str(released[kind]), None), theirs(released[kind])
    image, pixels = encoder.image, pictures(encoder.image_size, encoder.image_size)
    first, last, again = image.intermediate(pixels, (1, 2, 1))
    whole = image(pixels)
    assert error(last.patches, whole.patches) < TOLERANCE and error(last.cls, whole.cls) < TOLERANCE
    assert torch.equal(again.cls, first.cls) and first.grid == whole.grid
    del blocks_of(model.visual)[1]
    assert error(first.cls[:, 0], model.encode_image(standardised(pixels))) < TOLERANCE
    assert error(first.cls, whole.cls) > 0.01
    with pytest.raises(ValueError, match="blocks 1 to 2"):
        image.intermediate(pixels, (3,))
    del blocks_of(image.visual)[1]
    assert error(first.patches, image(pixels).patches) < TOLERANCE
    assert image.gives_blocks


@pytest.mark.parametrize("kind", ["convnext", "mobileclip"])
def test_feature_maps_have_no_earlier_blocks_to_give(released, kind):
    image = load(str(released[kind]), None).image
    assert not image.gives_blocks
    with pytest.raises(ValueError, match="grids and widths of their own"):
        image.intermediate(pictures(64, 64), (1,))


@pytest.mark.parametrize("kind", ["convnext", "mobileclip"])
@torch.no_grad()
def test_values_of_feature_maps_are_their_tokens(released, kind):
    image = load(str(released[kind]), None).image
    assert torch.equal(image.values(pictures(64, 64)).patches, image(pictures(64, 64)).patches)


@pytest.mark.parametrize("kind", CONFIGS)
def test_towers_keep_the_contract(released, kind):
    encoder = load(str(released[kind]), None)
    image, side = encoder.image, encoder.image_size
    assert not any(module.training for module in [*image.modules(), *encoder.text.modules()])
    for tokens in (image(pictures(side, side)), image.values(pictures(side, side))):
        image.zero_grad()
        (tokens.patches.square().sum() + tokens.cls.square().sum()).backward()
        lowest = [p for name, p in image.named_parameters() if image.layer_of(name) == 0 and p.requires_grad]
        assert lowest and all(p.grad.abs().sum() > 0 for p in lowest)
    for tower in (image, encoder.text):
        depths = {tower.layer_of(name) for name, _ in tower.named_parameters()}
        assert depths == set(range(tower.num_layers + 1))
    with pytest.raises(ValueError, match="no mask token"):
        image(pictures(side, side), torch.zeros(2, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match=f"use multiples of {image.patch_size}"):
        image(pictures(image.patch_size + 1, image.patch_size))
    twin = copy.deepcopy(encoder)
    assert torch.equal(twin.image(pictures(side, side)).patches, image(pictures(side, side)).patches)


@pytest.mark.parametrize("kind", ["clip", "clip_quick", "clipa", "siglip", "pe_core"])
@torch.no_grad()
def test_text_and_pictures_meet_as_in_the_model(released, kind):
    encoder, model = load(str(released[kind]), None), theirs(released[kind])
    tokenizer = open_clip.get_tokenizer(f"local-dir:{released[kind]}")
    texts = ["a photo of a cat", "A Dog!", "a a a a a a a a a a a a"]
    ids = encoder.text.tokenize(texts)
    assert torch.equal(ids, tokenizer(texts)) and ids.shape == (3, 8)
    assert encoder.text.tokenize([]).shape == (0, 8)
    ours = DualEncoder(encoder.image, encoder.text).encode_text(texts)
    assert error(ours, model.encode_text(ids)) < TOLERANCE
    cls = encoder.image(pictures(24, 24)).cls[:, 0]
    logits = F.normalize(cls, dim=-1) @ F.normalize(ours, dim=-1).T / encoder.temperature
    bias = 0.0 if model.logit_bias is None else model.logit_bias
    expected, _ = model.get_logits(standardised(pictures(24, 24)), ids)
    assert encoder.temperature == pytest.approx(math.exp(-model.logit_scale))
    assert error(logits + bias, expected) < 1e-4  # cosines over a temperature of 0.07


def test_siglips_words_are_cleaned_as_its_settings_say(released):
    ids = load(str(released["siglip"]), None).text.tokenize(["A  Photo, of CAT!"])
    assert ids[0].tolist() == [2, 3, 4, 5, 0, 0, 0, 0]


@pytest.mark.parametrize("kind", ["clip", "siglip", "mobileclip"])
@torch.no_grad()
def test_pixels_become_what_open_clips_transform_makes_of_pictures(released, kind):
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{released[kind]}")
    encoder = load(str(released[kind]), None)
    picture: Image.Image = to_pil_image(pictures(encoder.image_size, encoder.image_size)[0])
    expected = model.eval().encode_image(transform(picture).unsqueeze(0))
    assert error(encoder.image(to_tensor(picture).unsqueeze(0)).cls[:, 0], expected) < TOLERANCE


def test_towers_that_share_a_tokenizer_share_one(released):
    first, second = (load(str(released[kind]), None).text for kind in ("clip", "pe_core"))
    assert first._find_tokenizer() is second._find_tokenizer()
    assert copy.deepcopy(first)._find_tokenizer() is first._find_tokenizer()


@pytest.fixture
def tiny(monkeypatch, released) -> dict[str, dict]:
    """Tiny-ViT, an architecture of open_clip, of which it knows one set of weights; returns its tags, to change."""
    config = json.loads((released["clip"] / "open_clip_config.json").read_text())["model_cfg"]
    tags = {"mine": {"mean": tuple(MEAN), "std": tuple(STD), "hf_hub": "someone/tiny/"}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-ViT", config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny-ViT", tags)
    return tags


@torch.no_grad()
def test_an_architecture_and_a_file_are_a_model(released, tiny):
    file = released["clip"] / "open_clip_model.safetensors"
    encoder, whole = load("Tiny-ViT", str(file)), load(str(released["clip"]), None)
    assert torch.equal(encoder.image(pictures(24, 24)).cls, whole.image(pictures(24, 24)).cls)
    assert torch.equal(encoder.text(encoder.text.tokenize(["a"])), whole.text(whole.text.tokenize(["a"])))
    assert encoder.name == "open_clip:Tiny-ViT" and encoder.source == str(file) and encoder.licence is None
    assert load("Tiny-ViT:mine", str(file)).image.pixel_mean.flatten().tolist() == pytest.approx(MEAN)


@torch.no_grad()
def test_checkpoints_and_older_files_are_read(released, tiny, tmp_path):
    tensors = load_file(released["clip"] / "open_clip_model.safetensors")
    expected = load("Tiny-ViT", str(released["clip"] / "open_clip_model.safetensors")).image(pictures(24, 24)).cls
    training = {"epoch": 3, "name": "run", "state_dict": {f"module.{name}": tensors[name] for name in tensors}}
    sizes = {name: torch.tensor(number) for name, number in (("input_resolution", 24), ("context_length", 8))}
    openai = tensors | sizes | {"vocab_size": torch.tensor(49408), "logit_scale": tensors["logit_scale"].view(1)}
    for number, content in enumerate((training, openai)):
        torch.save(content, tmp_path / f"{number}.pt")
        assert torch.equal(load("Tiny-ViT", str(tmp_path / f"{number}.pt")).image(pictures(24, 24)).cls, expected)
    halves = {name: value.half() for name, value in tensors.items()}
    save_file(halves, tmp_path / "half.safetensors")
    encoder = load("Tiny-ViT", str(tmp_path / "half.safetensors"))
    assert {value.dtype for value in encoder.image.state_dict().values()} == {torch.float32}
    assert error(encoder.image(pictures(24, 24)).cls, expected) < 0.02


@torch.no_grad()
def test_a_tag_decides_on_pixels_and_gelu(released, tiny):
    tiny["quick"] = tiny["mine"] | {"quick_gelu": True, "mean": (0.1, 0.1, 0.1)}
    file = str(released["clip"] / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match=r"differ in pixel statistics or in their GELU; .* one of mine, quick, or"):
        load("Tiny-ViT", file)
    plain, quick = load("Tiny-ViT:mine", file), load("Tiny-ViT:quick", file)
    assert quick.image.pixel_mean.flatten().tolist() == pytest.approx([0.1, 0.1, 0.1])
    theirs_quick = theirs(released["clip"], force_quick_gelu=True)
    pixels = (pictures(24, 24) - 0.1) / torch.tensor(STD).view(3, 1, 1)
    assert error(quick.image(pictures(24, 24)).cls[:, 0], theirs_quick.encode_image(pixels)) < TOLERANCE
    ids = plain.text.tokenize(["a dog"])
    assert error(quick.text(ids), theirs_quick.encode_text(ids)) < TOLERANCE
    assert not torch.equal(quick.text(ids), plain.text(ids))
    with pytest.raises(ValueError, match="knows no such weights of Tiny-ViT; known are mine, quick"):
        load("Tiny-ViT:laion", file)
    del tiny["mine"]
    with pytest.raises(ValueError, match="differ in pixel statistics or in their GELU"):
        load("Tiny-ViT", file)  # the name says GELU, and all released weights are quick
    tiny.clear()
    assert torch.equal(load("Tiny-ViT", file).image.pixel_mean, torch.tensor(DEFAULT_STATISTICS.mean).view(1, 3, 1, 1))


@pytest.mark.parametrize(
    ("name", "mean", "quick"),
    [
        ("ViT-B-16-SigLIP2", 0.5, False),
        ("PE-Core-B-16", 0.5, False),
        ("MobileCLIP2-S0", 0.0, False),
        ("convnext_base_w", 0.48145466, False),
        ("ViT-B-16-quickgelu", 0.48145466, True),
        ("ViT-B-16:openai", 0.48145466, True),
        ("ViT-L-14:laion2b_s32b_b82k", 0.5, False),
        ("ViT-H-14-CLIPA", 0.485, False),
    ],
)
def test_released_weights_are_seen_as_they_were_trained(tmp_path, name, mean, quick):
    (tmp_path / "weights.safetensors").touch()
    described = describe(name, str(tmp_path / "weights.safetensors"))
    assert described.statistics.mean[0] == mean
    assert described.config["quick_gelu"] == quick


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-L-14", "ViT-L-14-336"])
def test_names_that_leave_the_gelu_open_are_refused_with_a_file(tmp_path, name):
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(ValueError, match=f"say whose .* are, as open_clip:{name}:TAG with one of openai"):
        describe(name, str(tmp_path / "weights.safetensors"))


def test_every_architecture_can_be_described():
    names = open_clip.list_models()
    assert len(names) > 100
    for name in names:
        assert describe(name, "random").source == "random"


def test_random_weights_need_only_a_config(released, tmp_path, tiny):
    shutil.copy(released["clip"] / "open_clip_config.json", tmp_path)
    for encoder in (load(str(tmp_path), "random"), load("Tiny-ViT", "random")):
        assert encoder.source == "random" and encoder.licence is None
        assert encoder.image(pictures(24, 24)).patches.isfinite().all()
    with pytest.raises(ValueError, match=r"holds no open_clip_model\.safetensors; its weights stay random only where"):
        load(str(tmp_path), None)
    with pytest.raises(ValueError, match=r"needs its weights: set them to a file, .*where weights=random asks"):
        load("Tiny-ViT", None)


@torch.no_grad()
def test_a_hub_name_is_looked_up_in_the_local_cache(released, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name, kind in (("tiny", "siglip"), ("old", "clip")):
        home = tmp_path / f"models--someone--{name}"
        shutil.copytree(released[kind], home / "snapshots" / "0123")
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text("0123")
    encoder = load("hf-hub:someone/tiny", None)
    assert encoder.source == "hf-hub:someone/tiny" and encoder.name == "open_clip:hf-hub:someone/tiny"
    assert encoder.text.tokenize(["a dog"])[0, :2].tolist() == [2, 6]
    old = tmp_path / "models--someone--old/snapshots/0123"
    torch.save(load_file(old / "open_clip_model.safetensors"), old / "open_clip_pytorch_model.bin")
    (old / "open_clip_model.safetensors").unlink()
    expected = load(str(released["clip"]), None).image(pictures(24, 24)).cls
    assert torch.equal(load("hf-hub:someone/old", None).image(pictures(24, 24)).cls, expected)
    with pytest.raises(ValueError, match="neither a folder nor in the local cache of the hub") as caught:
        load("hf-hub:someone/else", None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "weights", "complaint"),
    [
        ("ViT-B-61", None, r"neither a folder nor an architecture of open_clip \(the nearest are ViT-B-16, "),
        ("ViT-B-61", "some.pt", r"is no architecture of open_clip \(the nearest are ViT-B-16, .*got some\.pt"),
        ("/nowhere/at/all", None, r"/nowhere/at/all is neither a folder"),
        ("hf-hub:someone", None, "hub names look like OWNER/NAME"),
        ("hf-hub:someone/tiny", "some.pt", r"bring their own weights.*got some\.pt"),
        ("ViT-B-16", "/nowhere/at/all.pt", r"open_clip:ViT-B-16: /nowhere/at/all\.pt does not exist"),
    ],
)
def test_what_does_not_exist_is_named(name, weights, complaint):
    with pytest.raises(ValueError, match=complaint):
        load(name, weights)


def test_a_file_is_no_folder(folder):
    with pytest.raises(ValueError, match="is a file: set weights to it, and name its architecture"):
        load(str(folder / "open_clip_model.safetensors"), None)


def change(folder: Path, **parts: dict | None) -> None:
    """Replace parts of the model's description; None takes one away."""
    settings = json.loads((folder / "open_clip_config.json").read_text())
    settings["model_cfg"] |= parts
    settings["model_cfg"] = {key: value for key, value in settings["model_cfg"].items() if value is not None}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ({"multimodal_cfg": {}}, "it is a CoCa, .*which mix all places"),
        ({"vision_cfg": OWN | {"attentional_pool": True, "attn_pooler_heads": 2}}, "CoCa's learnt queries"),
        ({"vision_cfg": OWN | {"pool_type": "none"}}, "CoCa's learnt queries"),
        ({"vision_cfg": OWN | {"layers": [1, 1, 1, 1], "width": 16}}, "is a ModifiedResNet, which pools by attention"),
        ({"vision_cfg": OWN | {"qk_norm": True}}, "no value features: it is built of CustomResidualAttentionBlock"),
        ({"vision_cfg": OWN | {"patch_size": [8, 4]}}, r"its patches of 8 x 4 pixels are not squares"),
        ({"vision_cfg": OWN | {"layers": "many"}}, "open_clip cannot build it"),
        ({"vision_cfg": OWN | {"colour": "red"}}, "open_clip cannot build it: .*colour"),
        ({"vision_cfg": timm_tower("vit_base_patch16_siglip_224", "", "none")}, "pools nothing"),
        ({"vision_cfg": timm_tower("resnet18", "rot_attn", "", 64)}, "pools by RotAttentionPool2d"),
        ({"vision_cfg": timm_tower("levit_128s", "", "none")}, "Levit.*"),
        ({"vision_cfg": timm_tower("vit_nothing", "", "none")}, "open_clip cannot build it: .*vit_nothing"),
        ({"text_cfg": TEXT | {"hf_model_name": "roberta-base"}}, "its text tower roberta-base is one of transformers"),
        ({"embed_dim": None}, "describes no model"),
        ({"vision_cfg": None}, "describes no model"),
    ],
)
def test_models_without_dense_tokens_are_refused_in_one_sentence(folder, parts, complaint):
    change(folder, **parts)
    with pytest.raises(ValueError, match=complaint) as caught:
        load(str(folder), "random")
    assert "\n" not in str(caught.value)


def test_a_folder_without_description_is_refused(folder):
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(ValueError, match=r"has no open_clip_config\.json; name a folder in the layout"):
        load(str(folder), None)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"its config\.json looks like transformers:"):
        load(str(folder), None)


@pytest.mark.parametrize("pixels", [{}, {"mean": MEAN}, {"mean": MEAN, "std": 0.5}, None])
def test_unknown_pixel_statistics_are_refused(folder, pixels):
    settings = json.loads((folder / "open_clip_config.json").read_text()) | {"preprocess_cfg": pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="does not say what pixels its weights expect"):
        load(str(folder), None)


def test_a_tokenizer_that_is_missing_is_named(worded):
    (worded / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer for its text tower: copy tokenizer\.json or "):
        load(str(worded), None)
    with pytest.raises(ValueError, match=r"the tokenizer someone/words cannot be had: .*name a folder"):
        load(str(worded), "random").text.tokenize(["a"])


def test_a_damaged_tokenizer_is_refused(worded):
    (worded / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be had"):
        load(str(worded), None).text.tokenize(["a"])


def test_a_tokenizer_of_another_model_is_refused(worded):
    words = Tokenizer(models.WordLevel({f"{word}{i}": i for i in range(9) for word in "x"}, unk_token="x0"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="x8").save_pretrained(worded)
    with pytest.raises(ValueError, match="gives token 8, but the text tower knows 8 tokens"):
        load(str(worded), None).text.tokenize(["x1"])


def test_a_missing_package_is_named(worded, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"needs the package transformers \(extra: hf\)"):
        load(str(worded), None).text.tokenize(["a"])


def test_truncated_weights_are_one_sentence(folder):
    stored = (folder / "open_clip_model.safetensors").read_bytes()
    (folder / "open_clip_model.safetensors").write_bytes(stored[: len(stored) // 2])
    with pytest.raises(ValueError, match="is not a complete safetensors file") as caught:
        load(str(folder), None)
    assert "\n" not in str(caught.value)


def test_weights_that_need_unpickling_are_refused_with_a_way_out(folder):
    (folder / "open_clip_model.safetensors").unlink()
    torch.save({"state_dict": {}, "run": Path("somewhere")}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"unpickling it could run anything; .*save_file"):
        load(str(folder), None)


def test_openais_scripted_models_are_refused_with_a_way_out(folder, tiny, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch finds torch.jit old
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "ViT-B-16.pt")
    with pytest.raises(ValueError, match=r"is a TorchScript archive.*torch\.jit\.load and write its state dict"):
        load("Tiny-ViT", str(tmp_path / "ViT-B-16.pt"))


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("visual.proj", None, r"does not fit the model: missing visual\.proj; surplus nothing"),
        ("visual.proj", torch.ones(5, 20), r"visual\.proj should have shape \[32, 20\], got \[5, 20\]"),
        ("visual.positional_embedding", torch.ones(5, 32), r"should have shape \[10, 32\], got \[5, 32\]"),
        ("logit_bias", torch.tensor(-10.0), "surplus logit_bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder, name, value, complaint):
    tensors = load_file(folder / "open_clip_model.safetensors")
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    save_file(tensors, folder / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match=complaint):
        load(str(folder), None)


def test_towers_without_a_common_space_are_refused(folder):
    change(folder, text_cfg=TEXT | {"proj_type": "none"})
    encoder = load(str(folder), "random")
    with pytest.raises(ValueError, match="image is 20 and text 16 wide"):
        DualEncoder(encoder.image, encoder.text)
