"""Files in the layout of TIPS, read by transformers: python load_tips.py FOLDER QUESTIONS ANSWERS [FOLDER ...]

The code that TIPS was released with is no package. transformers knows the released names under two prefixes, so the
arrays of both files go into one safetensors file, and what the shapes say into a config.json.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16, 1536: 24}
"""By width; of other widths each head is 64 wide."""


def load(folder: str):
    """transformers' model and tokenizer."""
    vision, text = (dict(np.load(next(Path(folder).glob(f"*_{half}.npz")))) for half in ("vision", "text"))
    temperature = float(text.pop("temperature"))
    arrays = {f"vision_encoder.{name}": value for name, value in vision.items()}
    arrays |= {f"text_encoder.{name}": value for name, value in text.items()}
    with tempfile.TemporaryDirectory() as whole:
        tensors = {name: torch.from_numpy(value).float() for name, value in arrays.items()}
        save_file(tensors, f"{whole}/model.safetensors", metadata={"format": "pt"})
        config = transformers.Tipsv2Config(temperature_init_value=temperature, **settings(vision, text))
        config.save_pretrained(whole)
        shutil.copy(Path(folder) / "tokenizer.model", whole)
        model, report = transformers.Tipsv2Model.from_pretrained(whole, output_loading_info=True)
        assert not report["unexpected_keys"] and set(report["missing_keys"]) <= {"temperature"}, report
        return model.eval(), transformers.Tipsv2Tokenizer.from_pretrained(whole)


def settings(vision: dict, text: dict) -> dict[str, dict]:
    """What the shapes of the arrays say."""
    _, positions, width = vision["pos_embed"].shape
    patch = vision["patch_embed.proj.weight"].shape[-1]
    gated = "blocks.0.mlp.w12.weight" in vision
    inner = 1.5 * len(vision["blocks.0.mlp.w12.weight"]) / 2 if gated else len(vision["blocks.0.mlp.fc1.weight"])
    both = {"hidden_size": width, "num_attention_heads": HEADS.get(width, width // 64)}
    return {
        "vision_config": both
        | {
            "num_hidden_layers": depth(vision, "blocks."),
            "mlp_ratio": (inner + 0.5) / width,
            "use_swiglu_ffn": gated,
            "patch_size": patch,
            "image_size": patch * int((positions - 1) ** 0.5),
        },
        "text_config": both
        | {
            "num_hidden_layers": depth(text, "transformer.resblocks."),
            "intermediate_size": len(text["transformer.resblocks.0.mlp.c_fc.weight"]),
            "vocab_size": len(text["token_embedding.weight"]),
        },
    }


def depth(arrays: dict, prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in arrays if name.startswith(prefix))


@torch.no_grad()
def answer(folder: str, questions: Path) -> dict[str, torch.Tensor]:
    model, tokenizer = load(folder)
    stored = load_file(questions / "pictures.safetensors")
    pictures = [np.asarray(Image.fromarray(picture.numpy())) for picture in stored["pictures"]]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    texts = json.loads((questions / "texts.json").read_text(encoding="utf-8"))
    length = {"padding": "max_length", "truncation": True, "max_length": stored["ids"].shape[1]}
    found = model(pixel_values=pixels, **tokenizer(texts, return_tensors="pt", **length))
    tokens = found.vision_model_output.last_hidden_state
    return {
        "cls": tokens[:, 0],
        "cls2": tokens[:, 1],
        "patches": tokens[:, 2:],
        "text": found.text_model_output.pooler_output,
        "logits": found.logits_per_image,
    }


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()
    for folder, questions, answers in zip(*[iter(sys.argv[1:])] * 3, strict=True):
        said = answer(folder, Path(questions))
        save_file({name: value.contiguous() for name, value in said.items()}, answers)
    assert "distill" not in sys.modules
    print(json.dumps({"library": "transformers", "version": transformers.__version__}))
