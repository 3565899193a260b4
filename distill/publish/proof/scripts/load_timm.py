"""A published folder in timm: python load_timm.py FOLDER QUESTIONS ANSWERS [FOLDER QUESTIONS ANSWERS ...]"""

import json
import sys
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file


def load(folder: str):
    """The model, and what a picture has to go through before it."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    settings = timm.data.resolve_data_config(model=model)
    return model, timm.data.create_transform(**settings, is_training=False)


@torch.no_grad()
def answer(folder: str, questions: Path) -> dict[str, torch.Tensor]:
    model, transform = load(folder)
    stored = load_file(questions / "pictures.safetensors")
    pixels, photos = (
        torch.stack([transform(Image.fromarray(picture.numpy())) for picture in stored[name]])
        for name in ("pictures", "photos")
    )
    found, of_photos = model(pixels), model(photos)
    if isinstance(found, list):  # a network that ends at its last feature map
        answers = {"cls": found[-1].mean((2, 3)), "patches": found[-1].flatten(2).transpose(1, 2)}
        return answers | {"photo_pixels": photos, "photo_cls": of_photos[-1].mean((2, 3))}
    return of_tokens(model, pixels) | {"cls": found, "photo_pixels": photos, "photo_cls": of_photos}


def of_tokens(model, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Patches, and the second CLS token where there is one."""
    tokens = model.forward_features(pixels)
    if tokens.ndim == 4:  # a feature map: every place is pooled as if it were a picture
        places = tokens.permute(0, 2, 3, 1)
        alone = model.forward_head(places.reshape(-1, places.shape[-1], 1, 1))
        return {"patches": alone.view_as(places.flatten(1, 2))}
    answers = {"patches": tokens[:, model.num_prefix_tokens :]}
    if model.num_prefix_tokens > 1:
        answers["cls2"] = tokens[:, 1]
    return answers


if __name__ == "__main__":
    for folder, questions, answers in zip(*[iter(sys.argv[1:])] * 3, strict=True):
        said = answer(folder, Path(questions))
        save_file({name: value.contiguous() for name, value in said.items()}, answers)
    assert "distill" not in sys.modules
    print(json.dumps({"library": "timm", "version": timm.__version__}))
