"""How every format is loaded: the code that stands in the card, each block complete and run by the tests."""

import json
import os
from pathlib import Path, PurePosixPath

from distill.encoders.text_tips import TipsText
from distill.encoders.timm_names import kind_of
from distill.publish.proof.record import FormatProof, Proof
from distill.publish.student import INTERPOLATION, Subject

FOLDER = "path/to/this/folder"
PICTURE = "photo.jpg"
"""What a reader replaces."""

TIMM = """\
import timm
import torch
from PIL import Image

model = timm.create_model("local-dir:{place}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
pixels = transform(Image.open("{picture}").convert("RGB")).unsqueeze(0)
with torch.inference_mode():
    {outputs}
"""
OF_TIMM = {
    "transformer": "tokens = model.forward_features(pixels)  # [1, tokens, width]: CLS tokens, then patches",
    "convnet": "features = model.forward_features(pixels)  # [1, channels, height, width]",
    "map": "[features] = model(pixels)  # [1, channels, height, width]",
}
OPEN_CLIP = """\
{imports}import open_clip
import torch
from PIL import Image

{settled}
tokenizer = open_clip.get_tokenizer("local-dir:{place}")
pixels = transform(Image.open("{picture}").convert("RGB")).unsqueeze(0)
with torch.inference_mode():
    image = model.eval().encode_image(pixels, normalize=True)
    text = model.encode_text(tokenizer(["a photo of a cat", "a photo of a dog"]), normalize=True)
    probabilities = (model.logit_scale.exp() * image @ text.T).softmax(dim=-1)
"""
OF_A_NAME = 'model, _, transform = open_clip.create_model_and_transforms("local-dir:{place}")'
OF_A_FOLDER = (
    """\
import json
from pathlib import Path

""",
    """\
page = json.loads(Path("{place}/open_clip_config.json").read_text())
vision = page["model_cfg"]["vision_cfg"] | {{"timm_model_name": "local-dir:{place}"}}
model, _, transform = open_clip.create_model_and_transforms("local-dir:{place}", vision_cfg=vision)""",
)
"""Of an image tower whose sizes are those of a name of timm's, and of one whose sizes are in the folder."""
TRANSFORMERS = """\
from transformers import AutoModel, AutoProcessor, pipeline

model = AutoModel.from_pretrained("{place}")
processor = AutoProcessor.from_pretrained("{place}")
classify = pipeline(
    "zero-shot-image-classification",
    model=model,
    tokenizer=processor.tokenizer,
    image_processor=processor.image_processor,
)
print(classify("{picture}", candidate_labels=["cat", "dog"], hypothesis_template="a photo of a {{}}"))
"""
TRANSFORMERS_VISION = """\
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

model = AutoModel.from_pretrained("{place}").eval()
processor = AutoImageProcessor.from_pretrained("{place}")
inputs = processor(images=Image.open("{picture}").convert("RGB"), return_tensors="pt")
with torch.inference_mode():
    tokens = model(**inputs).last_hidden_state
"""
TIPS = """\
import numpy as np

# As released: image_encoder.py and text_encoder.py of github.com/google-deepmind/tips take these arrays.
towers = {{}}
for tower in ("vision", "text"):
    with np.load(f"{place}/student_{{tower}}.npz", allow_pickle=False) as arrays:
        towers[tower] = {{name: arrays[name] for name in arrays.files}}
"""
ONNX = """\
import numpy as np
import onnxruntime
from PIL import Image

picture = Image.open("{picture}").convert("RGB").resize(({side}, {side}), Image.Resampling.{interpolation})
pixels = (np.asarray(picture, dtype=np.float32) / 255).transpose(2, 0, 1)[None]
image = onnxruntime.InferenceSession("{place}/image.onnx", providers=["CPUExecutionProvider"])
cls, patches = image.run(["cls", "patches"], {{"pixels": pixels}})
"""
ONNX_TEXT = """
{tokenize}
text = onnxruntime.InferenceSession("{place}/text.onnx", providers=["CPUExecutionProvider"])
[features] = text.run(["features"], {{"ids": ids}})
"""
TOKENIZE = {
    "none": "",
    "open_clip": """\
from open_clip import SimpleTokenizer

ids = SimpleTokenizer(context_length={length})(["a photo of a cat", "a photo of a dog"]).numpy()""",
    "tips": """\
from sentencepiece import SentencePieceProcessor

words = SentencePieceProcessor(model_file="{place}/tokenizer.model").encode("A photo of a cat".lower())[:{length}]
ids = np.array([words + [0] * ({length} - len(words))])""",
}


def blocks(folder: Path, proof: Proof, *, subject: Subject) -> dict[str, str]:
    """Python code by format. `folder` is the published one."""
    code = {}
    for name, found in proof.formats.items():
        place = str(PurePosixPath(FOLDER) / place_of(found))
        words: dict[str, str | int] = {
            "place": place,
            "picture": PICTURE,
            "side": subject.image_size,
            "interpolation": INTERPOLATION.upper(),
        }
        words |= {} if subject.text is None else {"length": subject.text.context_length}
        if name == "timm":
            code[name] = TIMM.format(**words, outputs=OF_TIMM[_kind_in_timm(folder / place_of(found))])
        elif name == "open_clip":
            own = f"{place_of(found)}/config.json".removeprefix("./") in found.files
            imports, settled = OF_A_FOLDER if own else ("", OF_A_NAME)
            code[name] = OPEN_CLIP.format(**words, imports=imports, settled=settled.format(**words))
        elif name == "transformers":
            with_text = "text" in found.differences
            code[name] = (TRANSFORMERS if with_text else TRANSFORMERS_VISION).format(**words)
        elif name == "tips":
            code[name] = TIPS.format(**words)
        elif name == "onnx":
            tokenize = TOKENIZE[_kind_of_text(subject)].format(**words)
            code[name] = (ONNX + (ONNX_TEXT if tokenize else "")).format(**words, tokenize=tokenize)
    return code


def _kind_of_text(subject: Subject) -> str:
    if subject.text is None:
        return "none"
    return "tips" if isinstance(subject.text, TipsText) else "open_clip"


def place_of(found: FormatProof) -> str:
    """The folder of a format's files inside of the published one; `.` for that itself."""
    return os.path.commonpath([PurePosixPath(file).parent for file in found.files]) or "."


def _kind_in_timm(folder: Path) -> str:
    """Which of OF_TIMM: what the model that config.json describes returns."""
    page = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if page["model_args"].get("features_only"):
        return "map"
    return kind_of(page["architecture"])
