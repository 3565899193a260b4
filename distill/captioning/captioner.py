"""A captioner of transformers (extra: hf) from a local folder: pictures and prompts in, texts out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from distill.extras import optional_module, quiet

NO_PROMPT = ("vision-encoder-decoder",)
"""Model types that write about the picture alone."""


@dataclass(frozen=True)
class Question:
    """One picture, and what stands before and after it in the prompt."""

    picture: Image.Image
    before: str = ""
    after: str = ""


class Captioner:
    """Whatever AutoModelForImageTextToText loads: BLIP, BLIP-2, GIT, encoder-decoders, and models that chat.

    Decoding is greedy, so the same picture gets the same caption again.
    """

    def __init__(self, folder: Path, *, device: torch.device, max_tokens: int):
        """Raises ValueError without transformers, and for a folder that is not here or holds no such model."""
        self.folder, self.device, self.max_tokens = folder, device, max_tokens
        with quiet(_transformers()):
            self.model = _model(folder, torch.bfloat16 if device.type == "cuda" else torch.float32).to(device)
            self.processor, self.tokenizer = _processor(folder)
        self.chats = _has_chat_template(self.processor)
        self.control = [token.content for token in self.tokenizer.added_tokens_decoder.values()]
        if self.chats:
            # A decoder goes on from the end of its prompt, so what fills up shorter ones stands before them.
            self.tokenizer.padding_side = "left"

    def without_control(self, text: str) -> str:
        """A caption as nothing but text: the web's hold anything, and <image> in one would count as a picture."""
        for token in self.control:
            text = text.replace(token, " ")
        return text

    def captions(self, questions: Sequence[Question]) -> list[str]:
        """One text for each. Raises ValueError where the model cannot be asked so, or memory is too small."""
        groups = [list(questions)]
        if not self.chats and len({(question.before, question.after) for question in questions}) > 1:
            # Nobody says on which side a model without a chat template pads. One at a time needs no padding.
            groups = [[question] for question in questions]
        try:
            with quiet(_transformers()):
                return [text for group in groups for text in self._ask(group)]
        except torch.OutOfMemoryError as problem:
            raise ValueError(f"out of memory with {len(questions)} pictures at a time: lower --batch-size") from problem

    @torch.inference_mode()
    def _ask(self, questions: list[Question]) -> list[str]:
        inputs = self._chat(questions) if self.chats else self._plain(questions)
        inputs = {name: self._moved(value) for name, value in inputs.items()}
        prompts = self._read(inputs["input_ids"]) if "input_ids" in inputs else [""] * len(questions)
        written = self.model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False, num_beams=1)
        # Decoders return the prompt and go on: what they wrote themselves is the caption.
        texts = [text.removeprefix(prompt) for text, prompt in zip(self._read(written), prompts, strict=True)]
        return [" ".join(text.split()) for text in texts]

    def _chat(self, questions: list[Question]) -> Any:
        return self.processor.apply_chat_template(
            [[{"role": "user", "content": _content(question)}] for question in questions],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )

    def _plain(self, questions: list[Question]) -> Any:
        pictures = [question.picture for question in questions]
        texts = [f"{question.before} {question.after}".strip() for question in questions]
        if not any(texts):
            return self.processor(images=pictures, return_tensors="pt")
        if self.model.config.model_type in NO_PROMPT:
            raise ValueError(f"{self.folder} is a {self.model.config.model_type}, which takes no prompt")
        return self.processor(images=pictures, text=texts, return_tensors="pt")

    def _moved(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(self.device, self.model.dtype if value.is_floating_point() else value.dtype)

    def _read(self, ids: torch.Tensor) -> list[str]:
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def _content(question: Question) -> list[dict[str, Any]]:
    """A message of the user, as chat templates take it."""
    before, after = ([{"type": "text", "text": text}] if text else [] for text in (question.before, question.after))
    return [*before, {"type": "image", "image": question.picture}, *after]


def _transformers() -> Any:
    return optional_module("transformers", needed_by="a captioner")


def _model(folder: Path, dtype: torch.dtype) -> Any:
    """In eval mode, with every weight from the folder's safetensors."""
    if not folder.is_dir():
        raise ValueError(
            f"--model: there is no folder {str(folder)!r} here. Names on a hub are not read: download the model first"
        )
    transformers = _transformers()
    try:
        model, report = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as problem:
        raise ValueError(f"--model: {folder} holds no image-to-text model to load: {_first_line(problem)}") from problem
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(f"--model: the weights in {folder} lack {len(missing)} tensors, such as {missing[0]}")
    return model.eval()


def _processor(folder: Path) -> tuple[Any, Any]:
    """What makes inputs of pictures and texts, and its tokenizer. Encoder-decoders bring the two halves apart."""
    transformers = _transformers()
    try:
        processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
        if isinstance(processor, transformers.ProcessorMixin):
            return processor, processor.tokenizer
        pictures = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        return pictures, transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as problem:
        raise ValueError(f"--model: {folder} holds no processor to load: {_first_line(problem)}") from problem


def _has_chat_template(processor: Any) -> bool:
    """Image processors alone know of no templates."""
    return isinstance(processor, _transformers().ProcessorMixin) and processor.chat_template is not None


def _first_line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]
