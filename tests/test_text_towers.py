"""The text towers against open_clip and transformers, and their tokenizers."""

import copy
import random
from pathlib import Path

import pytest
import sentencepiece
import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Tipsv2TextConfig, Tipsv2TextModel

from distill.config import ImageTower, Student, TextTower
from distill.encoders.dual import build_dual, build_text_tower
from distill.encoders.text_open_clip import OpenClipText
from distill.encoders.text_tips import TipsText

SENTENCES = [
    "a red circle above a green square on a striped texture",
    "Two small dogs, one of them asleep!",
    "the photograph shows a large blue triangle",
    "nothing but sand and water",
]

AWKWARD = [
    "",
    "   ",
    "It's the dog's; they're (not) 3.5m tall...",
    "tabs\tand\nlines\r\nand   spaces ",
    "html &amp; entities &lt;b&gt; & ampersands &amp;amp;",
    "broken encoding: âœ” schÃ¶n, curly “quotes” and ﬁ ligatures",
    "日本語 русский عربى 🦊🦊 İstanbul ẞ",
    "control \x1b[31mred\x1b[0m \x07 bell \x00 nul",
    "<start_of_text> a <end_of_text> b <START_OF_TEXT>",
    "no-break\u00a0space and thin\u2009space and line\u2028separator",
    "word " * 100,
    "UPPER lower MiXeD",
]


def open_clip_tower() -> OpenClipText:
    torch.manual_seed(0)
    return OpenClipText(width=32, depth=2, num_heads=2, context_length=16, output_width=24)


def shaken(module: nn.Module) -> nn.Module:
    """Random values everywhere, so that no zero bias or unit scale hides a mistake."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            is_norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(mean=1.0 if is_norm else 0.0, std=0.2)
    return module


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory) -> str:
    """A tiny model with the pad id of the released one; unknown characters become bytes."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "text.txt").write_text("\n".join(sentence.lower() for sentence in SENTENCES * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tiny"),
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return str(folder / "tiny.model")


def tips_tower(tokenizer: str | None, *, context_length: int = 16) -> TipsText:
    torch.manual_seed(0)
    sizes = {"width": 32, "depth": 2, "num_heads": 2, "context_length": context_length}
    return shaken(TipsText(tokenizer=tokenizer, **sizes))


def test_open_clip_tokens_are_those_of_open_clip():
    tower, theirs = open_clip_tower(), SimpleTokenizer()
    draw = random.Random(5)
    printable = [chr(code) for code in range(32, 127)]
    anything = [*printable, *"\t\n\x1béüß“”—🦊日本&;\u00a0\u0301"]
    fuzz = ["".join(draw.choices(letters, k=40)) for letters in (printable, anything) for _ in range(200)]
    texts = SENTENCES + AWKWARD + fuzz
    for _ in range(2):  # the second time from the cache
        assert torch.equal(tower.tokenize(texts), theirs(texts, context_length=16))
    assert tower.tokenize([]).shape == (0, 16)


@torch.no_grad()
def test_the_open_clip_tower_is_open_clips():
    tower = open_clip_tower()
    theirs = TextTransformer(context_length=16, width=32, heads=2, layers=2, output_dim=24)
    state = {name.removeprefix("model."): value for name, value in tower.state_dict().items()}
    theirs.load_state_dict(state)
    ids = tower.tokenize(SENTENCES + AWKWARD)
    assert torch.equal(tower(ids), theirs(ids))
    assert tower(ids).shape == (len(ids), 24)


def hf_tips(tower: TipsText) -> Tipsv2TextModel:
    """transformers' TIPSv2 text model with the tower's weights."""
    config = Tipsv2TextConfig(
        vocab_size=tower.token_embedding.num_embeddings,
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    state = tower.state_dict()
    named = {"embeddings.token_embedding.weight": state["token_embedding.weight"]}
    for kind in ("weight", "bias"):
        named[f"final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
        for block in range(2):
            ours, theirs = f"transformer.resblocks.{block}", f"encoder.layers.{block}"
            for part, value in zip("qkv", state[f"{ours}.attn.in_proj_{kind}"].chunk(3), strict=True):
                named[f"{theirs}.self_attn.{part}_proj.{kind}"] = value
            for mine, yours in (
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                named[f"{theirs}.{yours}.{kind}"] = state[f"{ours}.{mine}.{kind}"]
    oracle = Tipsv2TextModel(config).eval()
    oracle.load_state_dict(named)
    return oracle


@torch.no_grad()
def test_the_tips_tower_agrees_with_transformers(sentencepiece_model):
    tower = tips_tower(sentencepiece_model)
    ids = tower.tokenize([*SENTENCES, "dog", "word " * 100])
    assert (ids[-1] != 0).all() and (ids[-2] == 0).any()
    oracle = hf_tips(tower)
    expected = oracle(input_ids=ids, attention_mask=(ids != 0).long()).pooler_output
    # Measured worst case 4.8e-7 at values up to 2.
    torch.testing.assert_close(tower(ids), expected, atol=1e-5, rtol=0)


def test_tips_parameters_have_the_names_of_the_released_files():
    names = set(tips_tower(None).state_dict())
    block = ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
    per_block = {f"{part}.{kind}" for part in block for kind in ("weight", "bias")}
    per_block |= {"attn.in_proj_weight", "attn.in_proj_bias"}
    blocks = {f"transformer.resblocks.{index}.{name}" for index in range(2) for name in per_block}
    assert names == blocks | {"token_embedding.weight", "ln_final.weight", "ln_final.bias"}
    assert tips_tower(None).token_embedding.num_embeddings == 32_000


def test_tips_tokens_are_lower_case_without_start_or_end(sentencepiece_model):
    tower = tips_tower(sentencepiece_model)
    ids = tower.tokenize(["A RED circle", "a red circle", "", "word " * 100])
    processor = sentencepiece.SentencePieceProcessor(model_file=sentencepiece_model)
    expected = processor.encode("a red circle")
    assert torch.equal(ids[0], ids[1])
    assert ids[0].tolist() == expected + [0] * (16 - len(expected))
    assert ids[2].tolist() == [0] * 16
    assert ids[3].tolist() == processor.encode("word " * 100)[:16]
    assert tower.tokenize([]).shape == (0, 16)


@torch.no_grad()
def test_a_tips_embedding_depends_on_its_own_text_only(sentencepiece_model):
    """The released tokenizer drops the padding mask of a batch with one long text; ours does not."""
    tower = tips_tower(sentencepiece_model)
    alone, beside = tower.tokenize(["a red dog"]), tower.tokenize(["a red dog", "word " * 100])
    torch.testing.assert_close(tower(alone)[0], tower(beside)[0], atol=1e-6, rtol=0)
    short = (alone != 0).sum()
    torch.testing.assert_close(tower(alone[:, :short]), tower(alone), atol=1e-6, rtol=0)


def test_an_empty_text_embeds_to_zeros_with_finite_gradients(sentencepiece_model):
    tower = tips_tower(sentencepiece_model)
    embeddings = tower(tower.tokenize(["", "a dog"]))
    assert torch.equal(embeddings[0], torch.zeros(32))
    embeddings.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in tower.parameters())


def test_a_tips_tower_of_another_width_than_the_image_is_refused():
    with pytest.raises(ValueError, match=r"student.text.width is 32 and the image tower is 48 wide"):
        build_text_tower(TextTower(kind="tips", width=32), 48)


def test_tips_tokenizers_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(ValueError, match="built without a SentencePiece model"):
        tips_tower(None).tokenize(["a"])
    with pytest.raises(ValueError, match=r"the tokenizer .*nothing\.model does not exist$"):
        tips_tower(str(tmp_path / "nothing.model"))
    Path(tmp_path / "text.model").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.model is not a SentencePiece model"):
        tips_tower(str(tmp_path / "text.model"))


@pytest.mark.parametrize("kind", ["open_clip", "tips"])
def test_layers_count_from_the_embeddings_to_what_follows_the_blocks(kind):
    tower = open_clip_tower() if kind == "open_clip" else tips_tower(None)
    prefix = "model." if kind == "open_clip" else ""
    layers = {name: tower.layer_of(name) for name, _ in tower.named_parameters()}
    assert layers[f"{prefix}token_embedding.weight"] == 0
    assert layers[f"{prefix}transformer.resblocks.0.ln_1.weight"] == 1
    assert layers[f"{prefix}transformer.resblocks.1.attn.in_proj_weight"] == 2
    assert layers[f"{prefix}ln_final.bias"] == tower.num_layers == 2
    assert all(layer == 0 or "resblocks" in name or layer == 2 for name, layer in layers.items())


def dual(kind: str, tokenizer: str | None = None):
    torch.manual_seed(0)
    image = ImageTower(width=32, depth=1, num_heads=2, patch_size=8)
    text = TextTower(kind=kind, width=32, depth=1, num_heads=2, context_length=16, tokenizer=tokenizer)
    return build_dual(Student(image=image, text=text), 16)


@pytest.mark.parametrize("kind", ["open_clip", "tips"])
def test_texts_are_encoded_in_batches_without_history(kind, sentencepiece_model):
    encoder = dual(kind, sentencepiece_model)
    together = encoder.encode_text(SENTENCES, batch_size=4)
    assert together.shape == (4, 32) and not together.requires_grad
    torch.testing.assert_close(encoder.encode_text(SENTENCES, batch_size=3), together, atol=1e-6, rtol=0)
    assert encoder.encode_text([]).shape == (0, 32)
    with torch.no_grad():
        expected: Tensor = encoder.text(encoder.text.tokenize(SENTENCES))
    assert torch.equal(together, expected)


def test_an_encoder_without_text_says_so():
    encoder = dual("none")
    assert encoder.text is None
    with pytest.raises(ValueError, match="has no text tower"):
        encoder.encode_text(["a dog"])


@pytest.mark.parametrize("kind", ["open_clip", "tips"])
def test_a_trained_dual_encoder_survives_copying_and_saving(kind, sentencepiece_model, tmp_path):
    encoder = dual(kind, sentencepiece_model)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    loss = encoder.text(encoder.text.tokenize(SENTENCES)).square().sum()
    (loss + encoder.image(torch.rand(1, 3, 16, 16)).cls.square().sum()).backward()
    optimizer.step()
    save_file(encoder.state_dict(), tmp_path / "dual.safetensors")
    restored = dual(kind, sentencepiece_model)
    assert not torch.equal(restored.encode_text(SENTENCES), encoder.encode_text(SENTENCES))
    restored.load_state_dict(load_file(tmp_path / "dual.safetensors"))
    for other in (restored, copy.deepcopy(encoder)):
        assert torch.equal(other.encode_text(SENTENCES), encoder.encode_text(SENTENCES))
