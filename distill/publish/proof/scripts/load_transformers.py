"""A published folder in transformers: python load_transformers.py FOLDER QUESTIONS ANSWERS [FOLDER QUESTIONS ...]"""

import json
import sys
from pathlib import Path

import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, AutoModel, AutoProcessor, pipeline


def load(folder: str):
    """The model in float32, and its processor: of pictures and texts, or of pictures where it has no text tower."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    of_both = model.config.model_type == "tipsv2"
    return model, (AutoProcessor if of_both else AutoImageProcessor).from_pretrained(folder)


@torch.no_grad()
def answer(folder: str, questions: Path) -> dict[str, torch.Tensor]:
    model, processor = load(folder)
    stored = load_file(questions / "pictures.safetensors")
    pictures, photos = ([Image.fromarray(one.numpy()) for one in stored[name]] for name in ("pictures", "photos"))
    if model.config.model_type == "tipsv2":
        texts = json.loads((questions / "texts.json").read_text(encoding="utf-8"))
        answers = of_pair(model, processor, pictures, texts)
        answers |= of_photos(model.vision_model, processor.image_processor, photos)
        return answers | feature_pipeline(folder, pictures[0]) | zero_shot_pipeline(folder, pictures[0], texts[:3])
    answers = of_tokens(model, model(processor(images=pictures, return_tensors="pt")["pixel_values"]))
    answers |= of_photos(model, processor, photos)
    if model.config.model_type == "timm_wrapper" and (model.config.model_args or {}).get("features_only"):
        return answers  # a network of timm that ends at its last feature map pools nothing, and has no pipeline
    return answers | feature_pipeline(folder, pictures[0], pool=True)


def of_photos(model, processor, photos: list) -> dict[str, torch.Tensor]:
    """Pictures of another size than the training's, as they go in, and their first CLS token."""
    pixels = processor(images=photos, return_tensors="pt")["pixel_values"]
    return {"photo_pixels": pixels, "photo_cls": of_tokens(model, model(pixels))["cls"]}


def of_pair(model, processor, pictures: list, texts: list[str]) -> dict[str, torch.Tensor]:
    length = processor.tokenizer.model_max_length
    inputs = processor(images=pictures, text=texts, max_length=length, return_tensors="pt")
    found = model(**inputs)
    answers = {"text": found.text_model_output.pooler_output, "logits": found.logits_per_image}
    return answers | of_tokens(model.vision_model, found.vision_model_output)


def of_tokens(model, found) -> dict[str, torch.Tensor]:
    """CLS tokens and patches of any of the architectures."""
    tokens = found.last_hidden_state
    if isinstance(tokens, list):  # timm's network up to its last feature map
        return {"cls": tokens[-1].mean((2, 3)), "patches": tokens[-1].flatten(2).transpose(1, 2)}
    if tokens.ndim == 4:  # a feature map: every place is pooled as if it were a picture
        places = tokens.permute(0, 2, 3, 1).flatten(1, 2)
        if model.config.model_type == "timm_wrapper":
            alone = model.timm_model.forward_head(places.reshape(-1, places.shape[-1], 1, 1))
        else:
            alone = model.layernorm(places)
        return {"cls": found.pooler_output, "patches": alone.view_as(places)}
    if model.config.model_type == "timm_wrapper":
        prefix = model.timm_model.num_prefix_tokens
    else:
        prefix = 1 + (0 if model.config.model_type == "dinov2" else model.config.num_register_tokens)
    answers = {"cls": found.pooler_output, "patches": tokens[:, prefix:]}
    return answers | ({"cls2": tokens[:, 1]} if prefix > 1 else {})


def feature_pipeline(folder: str, picture, **pooled: bool) -> dict[str, torch.Tensor]:
    """What the pipeline makes of one picture, of unit length; of a pair it gives the picture's feature anyway."""
    features = pipeline("image-feature-extraction", folder, dtype=torch.float32, **pooled)
    return {"feature_pipeline": normalize(torch.as_tensor(features(picture, return_tensors=True)), dim=-1)}


def zero_shot_pipeline(folder: str, picture, texts: list[str]) -> dict[str, torch.Tensor]:
    """The probability of each text."""
    zero_shot = pipeline("zero-shot-image-classification", folder, dtype=torch.float32)
    scores = {one["label"]: one["score"] for one in zero_shot(picture, texts, hypothesis_template="{}")}
    return {"zero_shot_pipeline": torch.tensor([scores[text] for text in texts])}


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()
    for folder, questions, answers in zip(*[iter(sys.argv[1:])] * 3, strict=True):
        said = answer(folder, Path(questions))
        save_file({name: value.contiguous() for name, value in said.items()}, answers)
    assert "distill" not in sys.modules
    print(json.dumps({"library": "transformers", "version": transformers.__version__}))
