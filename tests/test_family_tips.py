"""The tips family: released files and transformers' folders say in our towers what they say in transformers.

Worst errors measured (fp32, CPU, one thread, tokens of size up to 4) against transformers, at three sizes of picture:
CLS 1, CLS 2 and patches 0 with GELU and 1.1e-6 with SwiGLU, values 9.5e-7, text of 12 layers 9.5e-7, logits of size 17
2.9e-6.

Legend: B images, N patches, D width.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.encoders.dual import DualEncoder
from distill.encoders.text_tips import TipsText
from distill.encoders.timm_names import create
from distill.encoders.vit import TimmViT
from teachers.families import tips
from teachers.families.tips import load
from teachers.families.tips_sizes import RELEASED

TOLERANCE = 1e-5
WIDTH, HEADS, DEPTH, TEXT_DEPTH, GRID, TEMPERATURE = 128, 2, 2, 12, 4, 0.0123
TEXTS = ["A red circle", "a red circle and 7 blue squares", "squares " * 100, "?"]
MLP_WIDTH = 160
SWIGLU_WIDTH = 112
"""Two thirds of MLP_WIDTH, rounded up to a multiple of 8, for the gate and for the value."""

KINDS = {"gelu": {}, "swiglu": {"swiglu": True}, "v1": {"grid": 2}}


def write_tokenizer(folder: Path) -> Path:
    (folder / "text.txt").write_text("\n".join(f"a red circle and {number} blue squares" for number in range(50)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


def block(prefix: str, mlp: tuple[str, str], inner: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of one vision block in the released layout; `inner` is what the MLP's layers return and take."""
    shapes = {f"{prefix}.{norm}.{part}": (WIDTH,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
    shapes |= {f"{prefix}.{scale}.gamma": (WIDTH,) for scale in ("ls1", "ls2")}
    shapes |= {f"{prefix}.attn.qkv.weight": (3 * WIDTH, WIDTH), f"{prefix}.attn.qkv.bias": (3 * WIDTH,)}
    shapes |= {f"{prefix}.attn.proj.weight": (WIDTH, WIDTH), f"{prefix}.attn.proj.bias": (WIDTH,)}
    shapes |= {f"{prefix}.mlp.{mlp[0]}.weight": (inner[0], WIDTH), f"{prefix}.mlp.{mlp[0]}.bias": (inner[0],)}
    return shapes | {f"{prefix}.mlp.{mlp[1]}.weight": (WIDTH, inner[1]), f"{prefix}.mlp.{mlp[1]}.bias": (WIDTH,)}


def vision_shapes(*, swiglu: bool = False, grid: int = GRID) -> dict[str, tuple[int, ...]]:
    """Of every array in a released vision file (tipsv2.md section 9)."""
    mlp, inner = ("w12", "w3") if swiglu else ("fc1", "fc2"), (MLP_WIDTH, MLP_WIDTH)
    if swiglu:
        inner = (2 * SWIGLU_WIDTH, SWIGLU_WIDTH)
    shapes = {"cls_token": (1, 1, WIDTH), "register_tokens": (1, 1, WIDTH), "mask_token": (1, WIDTH)}
    shapes |= {"pos_embed": (1, 1 + grid**2, WIDTH), "norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}
    shapes |= {"patch_embed.proj.weight": (WIDTH, 3, 14, 14), "patch_embed.proj.bias": (WIDTH,)}
    for number in range(DEPTH):
        shapes |= block(f"blocks.{number}", mlp, inner)
    return shapes


def text_shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Of every array in a released text file."""
    shapes = {"token_embedding.weight": (vocabulary, WIDTH), "ln_final.weight": (WIDTH,), "ln_final.bias": (WIDTH,)}
    for number in range(TEXT_DEPTH):
        one = f"transformer.resblocks.{number}"
        shapes |= {f"{one}.{norm}.{part}": (WIDTH,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
        shapes |= {f"{one}.attn.in_proj_weight": (3 * WIDTH, WIDTH), f"{one}.attn.in_proj_bias": (3 * WIDTH,)}
        shapes |= {f"{one}.attn.out_proj.weight": (WIDTH, WIDTH), f"{one}.attn.out_proj.bias": (WIDTH,)}
        shapes |= {f"{one}.mlp.c_fc.weight": (MLP_WIDTH, WIDTH), f"{one}.mlp.c_fc.bias": (MLP_WIDTH,)}
        shapes |= {f"{one}.mlp.c_proj.weight": (WIDTH, MLP_WIDTH), f"{one}.mlp.c_proj.bias": (WIDTH,)}
    return shapes


def drawn(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Random arrays: norms and scales around one, matrices that keep the size of what they take, the rest small."""
    draw = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        around = (
            1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "gamma")) or "ln_" in name else 0.0
        )
        scale = np.prod(shape[1:]) ** -0.5 if len(shape) in (2, 4) and "mask" not in name else 0.2
        arrays[name] = (around * (not name.endswith("bias")) + scale * draw.standard_normal(shape)).astype(np.float32)
    return arrays


def write_pair(folder: Path, tokenizer: Path, *, name: str = "tips_v2_oss_b14", **kind) -> Path:
    folder.mkdir(exist_ok=True)
    shutil.copy(tokenizer, folder / "tokenizer.model")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer)).get_piece_size()
    np.savez(folder / f"{name}_vision.npz", **drawn(vision_shapes(**kind), 0))
    np.savez(folder / f"{name}_text.npz", **drawn(text_shapes(pieces), 1), temperature=np.float32(TEMPERATURE))
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def released(tmp_path_factory, tokenizer) -> dict[str, Path]:
    return {kind: write_pair(tmp_path_factory.mktemp(kind), tokenizer, **KINDS[kind]) for kind in KINDS}


@pytest.fixture
def folder(released, tmp_path) -> Path:
    """A released pair to spoil."""
    return Path(shutil.copytree(released["gelu"], tmp_path / "spoilt"))


def in_transformers(folder: Path) -> transformers.Tipsv2Model:
    """transformers' model with the arrays of a released pair, each put where it belongs by hand."""
    vision, text = (dict(np.load(next(folder.glob(f"*_{half}.npz")))) for half in ("vision", "text"))
    swiglu = "blocks.0.mlp.w12.weight" in vision
    grid = int((vision["pos_embed"].shape[1] - 1) ** 0.5)
    towers = {"hidden_size": WIDTH, "num_attention_heads": HEADS}
    config = transformers.Tipsv2Config(
        temperature_init_value=TEMPERATURE,
        vision_config=towers
        | {
            "num_hidden_layers": DEPTH,
            "image_size": 14 * grid,
            "use_swiglu_ffn": swiglu,
            "mlp_ratio": MLP_WIDTH / WIDTH,
        },
        text_config=towers
        | {
            "num_hidden_layers": TEXT_DEPTH,
            "intermediate_size": MLP_WIDTH,
            "vocab_size": len(text["token_embedding.weight"]),
        },
    )
    model = transformers.Tipsv2Model(config)
    tensors = {"temperature": text.pop("temperature")}
    embeddings = "vision_model.embeddings"
    for theirs, ours in (("cls_token",) * 2, ("mask_token",) * 2, ("register_tokens",) * 2):
        tensors[f"{embeddings}.{theirs}"] = vision[ours]
    tensors[f"{embeddings}.position_embeddings"] = vision["pos_embed"]
    tensors["text_model.embeddings.token_embedding.weight"] = text["token_embedding.weight"]
    for part in ("weight", "bias"):
        tensors[f"{embeddings}.patch_embeddings.projection.{part}"] = vision[f"patch_embed.proj.{part}"]
        tensors[f"vision_model.layernorm.{part}"] = vision[f"norm.{part}"]
        tensors[f"text_model.final_layer_norm.{part}"] = text[f"ln_final.{part}"]
        for number in range(DEPTH):
            tensors |= vision_layer(vision, number, part, swiglu=swiglu)
        for number in range(TEXT_DEPTH):
            tensors |= text_layer(text, number, part)
    for number in range(DEPTH):
        for scale in (1, 2):
            name = f"vision_model.encoder.layer.{number}.layer_scale{scale}.lambda1"
            tensors[name] = vision[f"blocks.{number}.ls{scale}.gamma"]
    model.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in tensors.items()})
    return model.eval()


def vision_layer(w: dict[str, np.ndarray], number: int, part: str, *, swiglu: bool) -> dict[str, np.ndarray]:
    theirs, ours = f"vision_model.encoder.layer.{number}", f"blocks.{number}"
    found = {f"{theirs}.{name}.{part}": w[f"{ours}.{name}.{part}"] for name in ("norm1", "norm2")}
    found[f"{theirs}.attention.o_proj.{part}"] = w[f"{ours}.attn.proj.{part}"]
    for letter, value in zip("qkv", np.split(w[f"{ours}.attn.qkv.{part}"], 3), strict=True):
        found[f"{theirs}.attention.{letter}_proj.{part}"] = value
    if not swiglu:
        return found | {f"{theirs}.mlp.{name}.{part}": w[f"{ours}.mlp.{name}.{part}"] for name in ("fc1", "fc2")}
    gate, up = np.split(w[f"{ours}.mlp.w12.{part}"], 2)
    found |= {f"{theirs}.mlp.gate_proj.{part}": gate, f"{theirs}.mlp.up_proj.{part}": up}
    return found | {f"{theirs}.mlp.down_proj.{part}": w[f"{ours}.mlp.w3.{part}"]}


def text_layer(w: dict[str, np.ndarray], number: int, part: str) -> dict[str, np.ndarray]:
    theirs, ours = f"text_model.encoder.layers.{number}", f"transformer.resblocks.{number}"
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj"}
    names |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    found = {f"{theirs}.{name}.{part}": w[f"{ours}.{own}.{part}"] for name, own in names.items()}
    for letter, value in zip("qkv", np.split(w[f"{ours}.attn.in_proj_{part}"], 3), strict=True):
        found[f"{theirs}.self_attn.{letter}_proj.{part}"] = value
    return found


@pytest.fixture(scope="module")
def oracles(released) -> dict[str, transformers.Tipsv2Model]:
    return {kind: in_transformers(folder) for kind, folder in released.items()}


@pytest.fixture(scope="module")
def whole(oracles, tokenizer, tmp_path_factory) -> Path:
    """A folder of transformers, with the weights of the released GELU pair."""
    return save(oracles["gelu"], tokenizer, tmp_path_factory.mktemp("whole") / "saved")


@pytest.fixture
def saved(whole, tmp_path) -> Path:
    """A folder of transformers to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "saved"))


def save(model: transformers.Tipsv2Model, tokenizer: Path, folder: Path, **arguments) -> Path:
    logging = transformers.utils.logging
    logging.disable_progress_bar()
    model.save_pretrained(folder, **arguments)
    logging.enable_progress_bar()
    shutil.copy(tokenizer, folder / "tokenizer.model")
    return folder


def pictures(height: int, width: int) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def error(ours: Tensor, reference: Tensor) -> float:
    assert ours.shape == reference.shape
    return (ours - reference).abs().max().item()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_released_files_say_the_same_in_transformers(released, oracles, kind):
    encoder, model = load(str(released[kind]), None), oracles[kind]
    side = 14 * KINDS[kind].get("grid", GRID)
    assert encoder.image_size == side
    for height, width in ((side, side), (side + 28, side + 14), (14, 42)):
        pixels = pictures(height, width)
        tokens, expected = encoder.image(pixels), model.vision_model(pixels).last_hidden_state
        assert tokens.grid == (height // 14, width // 14)
        assert error(tokens.cls, expected[:, :2]) < TOLERANCE
        assert error(tokens.patches, expected[:, 2:]) < TOLERANCE


@torch.no_grad()
def test_hidden_patches_become_the_released_mask_token(released, oracles):
    """A teacher sees everything, but a student may start from it."""
    pixels, hidden = pictures(56, 56), torch.rand(2, 16, generator=torch.Generator().manual_seed(2)) < 0.5
    expected = oracles["gelu"].vision_model(pixels, bool_masked_pos=hidden).last_hidden_state
    assert error(load(str(released["gelu"]), None).image(pixels, hidden).patches, expected[:, 2:]) < TOLERANCE


@pytest.mark.parametrize("kind", ["gelu", "swiglu"])
@torch.no_grad()
def test_value_features_are_a_last_block_that_looks_at_itself(released, oracles, kind):
    """tipsv2.md section 7: the value takes the place of what attention would have mixed."""
    model, pixels = oracles[kind], pictures(56, 70)
    attention = model.vision_model.encoder.layer[-1].attention
    hook = attention.register_forward_hook(
        lambda module, args, kwargs, output: (module.o_proj(module.v_proj(args[0])), None), with_kwargs=True
    )
    expected = model.vision_model(pixels).last_hidden_state
    hook.remove()
    tokens = load(str(released[kind]), None).image.values(pixels)
    assert error(tokens.patches, expected[:, 2:]) < TOLERANCE
    assert error(tokens.cls, expected[:, :2]) < TOLERANCE
    assert error(model.vision_model(pixels).last_hidden_state, expected) > 0.01


@torch.no_grad()
def test_text_and_pictures_meet_as_in_transformers(released, oracles):
    encoder, model = load(str(released["gelu"]), None), oracles["gelu"]
    assert encoder.text.num_layers == TEXT_DEPTH and encoder.text.context_length == 64
    ids = encoder.text.tokenize(TEXTS)
    seen = (ids != 0).long()
    expected = model.get_text_features(ids, attention_mask=seen).pooler_output
    ours = DualEncoder(encoder.image, encoder.text).encode_text(TEXTS)
    assert error(ours, expected) < TOLERANCE
    pixels = pictures(56, 56)
    output = model(input_ids=ids, attention_mask=seen, pixel_values=pixels)
    cls = nn.functional.normalize(encoder.image(pixels).cls[:, 0], dim=-1)
    logits = cls @ nn.functional.normalize(ours, dim=-1).T / encoder.temperature
    assert encoder.temperature == pytest.approx(TEMPERATURE)
    assert error(logits, output.logits_per_image) < 1e-4  # cosines over a temperature of 0.0123


def test_words_are_lower_cased_and_padded_with_zeros(released, tokenizer):
    text = load(str(released["gelu"]), None).text
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    ids = text.tokenize(TEXTS)
    words = processor.encode("a red circle")
    assert ids[0].tolist() == words + [0] * (64 - len(words))
    assert ids[2].tolist() == processor.encode("squares " * 100)[:64]


def test_what_is_known_of_a_release_comes_along(released):
    encoder = load(str(released["swiglu"]), None)
    assert isinstance(encoder.image, TimmViT) and isinstance(encoder.text, TipsText)
    assert encoder.image.num_cls == 2 and encoder.image.interpolation == "bilinear"
    assert encoder.licence == "CC-BY-4.0" and encoder.heads is None
    assert encoder.name == f"tips:{released['swiglu']}" and encoder.source == str(released["swiglu"])
    assert torch.equal(encoder.image.standardise(pictures(14, 14)), pictures(14, 14))
    assert not any(module.training for module in [*encoder.image.modules(), *encoder.text.modules()])
    assert load(str(released["v1"]), None).image_size == 28


@pytest.mark.parametrize("half", ["vision", "text"])
def test_either_file_stands_for_the_pair(released, half):
    file = released["gelu"] / f"tips_v2_oss_b14_{half}.npz"
    encoder, whole = load(str(file), None), load(str(released["gelu"]), None)
    assert encoder.source == str(file)
    for one, other in ((encoder.image, whole.image), (encoder.text, whole.text)):
        assert all(
            torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("kind", ["gelu", "swiglu"])
def test_folders_of_transformers_are_the_released_files(released, oracles, tokenizer, tmp_path, kind, shards):
    saved = save(oracles[kind], tokenizer, tmp_path / kind, **{"max_shard_size": "1MB"} if shards else {})
    assert (saved / "model.safetensors").is_file() != shards
    (saved / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    encoder, released_one = load(str(saved), None), load(str(released[kind]), None)
    for ours, other in ((encoder.image, released_one.image), (encoder.text, released_one.text)):
        expected = other.state_dict()
        assert ours.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())
    assert encoder.temperature == pytest.approx(TEMPERATURE)
    assert encoder.licence == "apache-2.0" and encoder.image_size == released_one.image_size
    assert torch.equal(encoder.text.tokenize(TEXTS), released_one.text.tokenize(TEXTS))


def test_files_of_the_hub_keep_the_released_names(saved, released):
    """They lack the temperature, which is in the settings, and name an MLP as the .npz files do."""
    tensors = load_file(saved / "model.safetensors")
    del tensors["temperature"]
    names = {
        name: name.replace("c_fc", "fc1").replace("c_proj", "fc2") if "vision" in name else name for name in tensors
    }
    save_file({names[name]: value for name, value in tensors.items()}, saved / "model.safetensors")
    encoder, other = load(str(saved), None), load(str(released["gelu"]), None)
    assert encoder.temperature == pytest.approx(TEMPERATURE)
    assert torch.equal(encoder.image.state_dict()["model.norm.weight"], other.image.state_dict()["model.norm.weight"])


@pytest.mark.parametrize("name", RELEASED)
def test_released_sizes_are_timms_and_random_only_where_asked(name):
    with torch.device("meta"):
        image = tips._image_tower(RELEASED[name])
        text = TipsText(
            width=image.width,
            depth=RELEASED[name].text_depth,
            num_heads=RELEASED[name].text_heads,
            mlp_width=RELEASED[name].text_mlp_width,
            context_length=64,
            tokenizer=None,
        )
        names = {"b14": "base", "l14": "large", "so14": "so400m", "g14": "giant"}
        if name in names:
            theirs = create(f"vit_{names[name]}_patch14_reg1_tipsv2", {"num_classes": 0, "global_pool": ""})
            shapes = {key: value.shape for key, value in theirs.state_dict().items()}
            assert {key: value.shape for key, value in image.model.state_dict().items()} == shapes
    millions = {"s14": None, "b14": (86.3, 109.6), "l14": (304.0, 183.9), "so14": (413.3, 448.3), "g14": (None, 389.1)}
    counts = [sum(parameter.numel() for parameter in tower.parameters()) / 1e6 for tower in (image, text)]
    for count, expected in zip(counts, millions[name] or (None, None), strict=True):
        assert expected is None or count == pytest.approx(expected, abs=0.1)  # Table 16 of the paper, in tenths
    with pytest.raises(ValueError, match=f"tips:{name} has no weights: download .*tips_data .*weights=random asks"):
        load(name, None)


def test_random_weights_of_a_released_size(monkeypatch):
    small = {"width": 64, "depth": 1, "num_heads": 1, "mlp_width": 64, "text_heads": 1, "text_mlp_width": 64}
    monkeypatch.setitem(RELEASED, "s14", tips.Sizes(**small | {"grid": 2, "text_depth": 1}))
    encoder = load("s14", "random")
    assert encoder.source == "random" and encoder.licence is None and encoder.temperature is None
    assert encoder.image(pictures(28, 28)).patches.isfinite().all()
    assert encoder.text(torch.tensor([[3, 1, 0]])).shape == (1, 64)
    with pytest.raises(ValueError, match="built without a SentencePiece model"):
        encoder.text.tokenize(["a"])


@pytest.mark.parametrize("kind", ["gelu", "swiglu"])
def test_random_weights_need_only_a_config(oracles, tokenizer, tmp_path, kind):
    saved = save(oracles[kind], tokenizer, tmp_path / "saved")
    for file in saved.iterdir():
        if file.name != "config.json":
            file.unlink()
    encoder = load(str(saved), "random")
    shapes = {name: value.shape for name, value in encoder.image.state_dict().items()}
    assert encoder.source == "random" and encoder.image_size == 56
    assert shapes["model.blocks.1.mlp.fc1.weight"] == (2 * SWIGLU_WIDTH if kind == "swiglu" else MLP_WIDTH, WIDTH)
    assert encoder.text(torch.tensor([[3, 1, 0]])).shape == (1, WIDTH)


def test_random_weights_look_at_no_pair(released):
    with pytest.raises(ValueError, match=r"holds no config\.json, .*use a released size: tips:s14, tips:b14"):
        load(str(released["gelu"]), "random")


def test_a_hub_name_is_looked_up_in_the_local_cache(saved, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--someone--tiny"
    shutil.copytree(saved, home / "snapshots" / "0123")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0123")
    encoder = load("someone/tiny", None)
    assert encoder.source == "someone/tiny" and encoder.name == "tips:someone/tiny"
    with pytest.raises(ValueError, match="neither a folder nor in the local cache of the hub"):
        load("someone/else", None)


@pytest.mark.parametrize(
    ("name", "weights", "complaint"),
    [
        ("/nowhere/at/all", None, "neither a folder, nor one of a pair of .npz files, nor a hub name"),
        ("b15", None, r"nor a released size \(s14, b14, l14, so14, g14\)"),
        ("/nowhere/b14_vision.npz", None, r"/nowhere/b14_vision\.npz is missing"),
        ("b14", "some.npz", r"tips:b14 brings its own weights.*got some\.npz"),
    ],
)
def test_what_does_not_exist_is_named(name, weights, complaint):
    with pytest.raises(ValueError, match=complaint):
        load(name, weights)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"holds neither config\.json nor a pair of files \*_vision\.npz and \*_text"):
        load(str(tmp_path), None)
    with pytest.raises(ValueError, match=r"note\.txt is not named like a file of TIPS"):
        load(str(tmp_path / "note.txt"), None)


@pytest.mark.parametrize(("half", "other"), [("vision", "text"), ("text", "vision")])
def test_a_missing_half_is_named(folder, half, other):
    (folder / f"tips_v2_oss_b14_{half}.npz").unlink()
    for name in (folder, folder / f"tips_v2_oss_b14_{other}.npz"):
        with pytest.raises(ValueError, match=rf"b14_{half}\.npz is missing: .*b14_{other}\.npz is one half"):
            load(str(name), None)


def test_of_several_pairs_one_must_be_named(folder, tokenizer):
    write_pair(folder, tokenizer, name="tips_oss_b14", grid=2)
    with pytest.raises(ValueError, match=r"holds 2 models; name one of them: .*/tips_oss_b14_vision\.npz, .*/tips_v2_"):
        load(str(folder), None)
    assert load(str(folder / "tips_oss_b14_vision.npz"), None).image_size == 28


def test_a_missing_tokenizer_is_named(folder, saved):
    for where in (folder, saved):
        (where / "tokenizer.model").unlink()
        with pytest.raises(ValueError, match=r"has no tokenizer\.model.*download https://.*tokenizer\.model"):
            load(str(where), None)


def test_a_tokenizer_of_another_model_is_refused(folder):
    spoil(folder, "text", **{"token_embedding.weight": ones(100, WIDTH)})
    with pytest.raises(ValueError, match=r"has \d+ pieces, but the text tower knows 100 tokens: it belongs to another"):
        load(str(folder), None)


def test_a_damaged_tokenizer_is_refused(folder):
    (folder / "tokenizer.model").write_text("hello")
    with pytest.raises(ValueError, match="is not a SentencePiece model"):
        load(str(folder), None)


def test_a_missing_package_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ValueError, match=r"needs the package sentencepiece \(extra: tips\)"):
        load(str(folder), None)


def spoil(folder: Path, half: str, **arrays) -> None:
    """Replace arrays of a file; None takes one away."""
    file = folder / f"tips_v2_oss_b14_{half}.npz"
    found = dict(np.load(file)) | arrays
    np.savez(file, **{name: value for name, value in found.items() if value is not None})


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("half", "name", "value", "complaint"),
    [
        ("vision", "norm.weight", ones(5), r"norm\.weight should have shape \[128\], got \[5\]"),
        (
            "vision",
            "blocks.1.attn.qkv.bias",
            ones(5),
            r"blocks\.1\.attn\.qkv\.bias should have shape \[384\], got \[5\]",
        ),
        ("vision", "cls_token", ones(1, 2, 128), r"cls_token should have shape \[1, 1, 128\], got \[1, 2, 128\]"),
        ("vision", "mask_token", ones(128), r"mask_token should have shape \[1, 128\], got \[128\]"),
        ("vision", "register_tokens", ones(1, 4, 128), r"reg_token should have shape \[1, 1, 128\], got \[1, 4, 128\]"),
        ("vision", "pos_embed", ones(17, 128), r"pos_embed should have shape \[1, 1\+N, D\], got \[17, 128\]"),
        ("vision", "pos_embed", ones(1, 16, 128), r"should hold CLS and a square of patches, got \[1, 16, 128\]"),
        ("vision", "pos_embed", ones(1, 17, 100), "is 100 wide and .*_text.npz 128: they are no pair"),
        ("vision", "pos_embed", None, "lacks the tensor pos_embed"),
        ("vision", "mask_token", None, "lacks the tensor mask_token"),
        ("vision", "norm.bias", None, r"does not fit the model: missing norm\.bias; surplus nothing"),
        ("vision", "head.weight", ones(5), r"surplus head\.weight"),
        ("vision", "blocks.4.norm1.bias", ones(128), r"missing blocks\.2\.attn"),
        ("text", "ln_final.bias", ones(5), r"\(text tower\): ln_final\.bias should have shape \[128\], got \[5\]"),
        ("text", "token_embedding.weight", None, r"b14_text\.npz lacks the tensor token_embedding\.weight"),
        ("text", "temperature", ones(2), r"temperature should be one number, got shape \[2\]"),
        ("text", "ln_final.bias", np.ones(128, np.int64), "should hold floating-point numbers, got int64"),
        ("text", "ln_final.bias", np.array([None]), "unpickling it could run anything .*numpy.savez"),
        (
            "vision",
            "Transformer/encoder_norm/bias",
            ones(5),
            "is of the JAX release .*file of the same model from",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(folder, half, name, value, complaint):
    spoil(folder, half, **{name: value})
    with pytest.raises(ValueError, match=complaint) as caught:
        load(str(folder), None)
    assert "\n" not in str(caught.value)


def test_a_width_that_heads_do_not_divide_is_refused(folder):
    spoil(folder, "vision", pos_embed=ones(1, 17, 100))
    spoil(folder, "text", **{"token_embedding.weight": ones(300, 100)})
    with pytest.raises(ValueError, match="is 100 wide: no released TIPS is, and heads of 64 do not divide that"):
        load(str(folder), None)


def test_a_release_without_temperature_has_none(folder):
    spoil(folder, "text", temperature=None)
    assert load(str(folder), None).temperature is None


@pytest.mark.parametrize("keep", [0, 1000])
def test_truncated_files_are_one_sentence(folder, keep):
    file = folder / "tips_v2_oss_b14_vision.npz"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"_vision\.npz is not a complete \.npz file") as caught:
        load(str(folder), None)
    assert "\n" not in str(caught.value)


def change(saved: Path, part: str | None, **values) -> None:
    settings = json.loads((saved / "config.json").read_text())
    (settings[part] if part else settings).update(values)
    (saved / "config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("part", "values", "complaint"),
    [
        (None, {"model_type": "tipsv2_vision_model"}, "is of type tipsv2_vision_model, not tipsv2; name a folder"),
        (None, {"model_type": "dinov2"}, "is of type dinov2, not tipsv2"),
        ("vision_config", {"hidden_act": "relu"}, r"vision_config\.hidden_act is relu; only gelu is supported"),
        ("vision_config", {"num_register_tokens": 4}, r"num_register_tokens is 4; only 1 is supported"),
        ("text_config", {"scale_sqrt_depth": False}, "scale_sqrt_depth is False; only True is supported"),
        ("text_config", {"hidden_size": 64}, "128 wide and the text tower 64: they are no pair"),
        ("vision_config", {"image_size": [56, 56]}, r"image_size should be a number, got \[56, 56\]"),
        ("vision_config", {"num_attention_heads": 3}, "timm cannot build .*divisible"),
        ("vision_config", {"num_hidden_layers": 3}, r"missing blocks\.2"),
        ("text_config", {"intermediate_size": 64}, r"c_fc\.\w+ should have shape \[64.*got \[160"),
    ],
)
def test_settings_of_another_model_are_refused(saved, part, values, complaint):
    change(saved, part, **values)
    with pytest.raises(ValueError, match=complaint):
        load(str(saved), None)


def test_settings_left_out_are_transformers_own(saved):
    change(saved, None, text_config={}, vision_config={"hidden_size": 768})
    encoder = load_sizes(saved)
    theirs = transformers.Tipsv2Config()
    assert encoder.width == theirs.vision_config.hidden_size and encoder.depth == theirs.vision_config.num_hidden_layers
    assert encoder.mlp_width == encoder.width * theirs.vision_config.mlp_ratio
    assert encoder.grid == theirs.vision_config.image_size // theirs.vision_config.patch_size
    assert encoder.text_mlp_width == theirs.text_config.intermediate_size
    assert encoder.vocabulary == theirs.text_config.vocab_size
    assert encoder.text_heads == theirs.text_config.num_attention_heads
    assert encoder.context_length == theirs.text_config.max_position_embeddings
    assert encoder.num_heads == theirs.vision_config.num_attention_heads
    assert encoder.text_depth == theirs.text_config.num_hidden_layers


def load_sizes(saved: Path) -> tips.Sizes:
    return tips.read_folder(saved, with_weights=False).sizes


def test_folders_without_safetensors_are_refused(saved):
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds no model\.safetensors; its weights stay random only where"):
        load(str(saved), None)


def test_tensors_of_no_tower_are_refused(saved):
    tensors = load_file(saved / "model.safetensors") | {"vision_model.layernorm.bias": torch.ones(5)}
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"has no place for the tensor vision_model\.layernorm\.bias"):
        load(str(saved), None)


def test_truncated_safetensors_are_refused(saved):
    stored = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(stored[: len(stored) // 2])
    with pytest.raises(ValueError, match="is not a complete safetensors file"):
        load(str(saved), None)
