"""A published folder in onnxruntime: python load_onnx.py FOLDER QUESTIONS ANSWERS [FOLDER QUESTIONS ANSWERS ...]"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from safetensors.numpy import load_file, save_file


def load(folder: str):
    """The graphs of the image tower and of the text tower, where there is one, and what is said of them."""
    settings = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    towers = ["image", "text"] if "context_length" in settings else ["image"]
    sessions = [onnxruntime.InferenceSession(f"{folder}/{tower}.onnx", quiet()) for tower in towers]
    return *sessions, *[None] * (2 - len(sessions)), settings


def quiet() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


def in_unit_range(pictures: np.ndarray) -> np.ndarray:
    """[B, H, W, 3] in 0 to 255 as [B, 3, H, W] in 0 to 1."""
    return pictures.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)


def resized(picture: np.ndarray, settings: dict) -> np.ndarray:
    """[h, w, 3] as [H, W, 3]: the whole picture at the side of training."""
    assert settings["resize_mode"] == "squash"
    side, how = settings["image_size"], Image.Resampling[settings["interpolation"].upper()]
    return np.asarray(Image.fromarray(picture).resize((side, side), how))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def answer(folder: str, questions: Path) -> dict[str, np.ndarray]:
    image, text, settings = load(folder)
    stored = load_file(questions / "pictures.safetensors")
    cls, patches = image.run(None, {"pixels": in_unit_range(stored["pictures"])})
    answers = {"cls": cls[:, 0], "patches": patches}
    if cls.shape[1] > 1:
        answers["cls2"] = cls[:, 1]
    answers["photo_pixels"] = in_unit_range(np.stack([resized(each, settings) for each in stored["photos"]]))
    answers["photo_cls"] = image.run(None, {"pixels": answers["photo_pixels"]})[0][:, 0]
    if settings["any_size"]:
        wide = image.run(None, {"pixels": in_unit_range(stored["wide"])})
        answers |= {"wide_cls": wide[0][:, 0], "wide_patches": wide[1]}
    if text is not None:
        (answers["text"],) = text.run(None, {"ids": stored["ids"]})
        answers["logits"] = unit(answers["cls"]) @ unit(answers["text"]).T / settings["temperature"]
        answers["logits"] += settings["logit_bias"] or 0
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in answers.items()}


if __name__ == "__main__":
    for folder, questions, answers in zip(*[iter(sys.argv[1:])] * 3, strict=True):
        save_file(answer(folder, Path(questions)), answers)
    assert "distill" not in sys.modules
    print(json.dumps({"library": "onnxruntime", "version": onnxruntime.__version__}))
