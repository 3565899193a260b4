"""A published folder in open_clip: python load_open_clip.py FOLDER QUESTIONS ANSWERS [FOLDER QUESTIONS ANSWERS ...]"""

import json
import sys
from pathlib import Path

import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file, save_file


def load(folder: str):
    """The model, what a picture has to go through before it, and the tokenizer."""
    page = json.loads((Path(folder) / "open_clip_config.json").read_text(encoding="utf-8"))
    vision = page["model_cfg"]["vision_cfg"]
    if vision["timm_model_name"] == "local-dir:.":
        vision["timm_model_name"] = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}", vision_cfg=vision)
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")


@torch.no_grad()
def answer(folder: str, questions: Path) -> dict[str, torch.Tensor]:
    model, preprocess, tokenizer = load(folder)
    stored = load_file(questions / "pictures.safetensors")
    texts = json.loads((questions / "texts.json").read_text(encoding="utf-8"))
    pixels, photos = (
        torch.stack([preprocess(Image.fromarray(picture.numpy())) for picture in stored[name]])
        for name in ("pictures", "photos")
    )
    cls, text = model.encode_image(pixels), model.encode_text(tokenizer(texts))
    answers = {"cls": cls, "text": text, "logits": model.get_logits(pixels, tokenizer(texts))[0]}
    answers |= {"photo_pixels": photos, "photo_cls": model.encode_image(photos)}
    trunk = model.visual.trunk
    tokens = trunk.forward_features(pixels)
    if tokens.ndim == 4:  # a feature map: every place is pooled as if it were a picture
        places = tokens.permute(0, 2, 3, 1)
        alone = trunk.forward_head(places.reshape(-1, places.shape[-1], 1, 1))
        return answers | {"patches": alone.view_as(places.flatten(1, 2))}
    answers["patches"] = tokens[:, trunk.num_prefix_tokens :]
    if trunk.num_prefix_tokens > 1:
        answers["cls2"] = tokens[:, 1]
    return answers


if __name__ == "__main__":
    for folder, questions, answers in zip(*[iter(sys.argv[1:])] * 3, strict=True):
        said = answer(folder, Path(questions))
        save_file({name: value.contiguous() for name, value in said.items()}, answers)
    assert "distill" not in sys.modules
    print(json.dumps({"library": "open_clip", "version": open_clip.__version__}))
