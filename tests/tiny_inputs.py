"""Two of everything that a recipe can name, small and different from each other: `first` and `second`, say."""

import io
import json
from itertools import count
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import sentencepiece
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_data import TAR_COLUMNS, picture_bytes, rows, write_folder, write_tars

from distill.eval.probes.dpt import DPTHead


def write_inputs(folder: Path) -> None:
    """timm/*.safetensors, words/*.model; decoder.safetensors, of depth, for towers 48 wide; masks, classes, pairs,
    instances, geometry; mixed, other, broken (parquet); folder(.json)."""
    write_timm(folder / "timm")
    write_tokenizers(folder / "words")
    torch.manual_seed(0)
    save_file(DPTHead(width=48, num_outputs=4, channels=8, relu=True).state_dict(), folder / "decoder.safetensors")
    write_datasets(folder)
    for name, shift in (("first", 0), ("second", 500)):
        write_masks(folder / "masks" / name, shift=shift)
        write_classes(folder / "classes" / name, alike=name == "second")
        write_pairs(folder / "pairs" / name, alike=name == "second")
        write_instances(folder / "instances" / name, alike=name == "second")
        write_geometry(folder / "geometry" / name, shift=shift)


def write_timm(folder: Path) -> None:
    folder.mkdir()
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        weights = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
        save_file(weights, folder / f"{name}.safetensors")


def captioned(*, shift: int) -> list[dict[str, Any]]:
    """Rows whose columns are called like the members of the tars beside them, with a second picture each."""
    return [
        {
            "image": {"bytes": picture_bytes(number + shift), "path": f"{number:03d}.png"},
            "second": {"bytes": picture_bytes(number + 1000), "path": f"{number:03d}.png"},
            "txt": f"web {number}",
            "json": {"captions": [f"a small {number + shift}"], "long": f"all about the number {number} at length"},
        }
        for number in range(40)
    ]


def write_parquet(folder: Path, samples: list[dict[str, Any]]) -> None:
    folder.mkdir()
    for part in range(2):
        datasets.Dataset.from_list(samples[part::2]).to_parquet(folder / f"part-{part}.parquet")


def write_datasets(folder: Path) -> None:
    write_parquet(folder / "mixed", captioned(shift=0))
    assert set(TAR_COLUMNS.values()) == {"txt", "json.captions", "json.long"}
    write_tars(folder / "mixed", rows(40), num_shards=2)
    write_parquet(folder / "other", captioned(shift=200))
    samples = captioned(shift=0)
    for sample in samples[::8]:
        sample["image"]["bytes"] = b"no picture"
    write_parquet(folder / "broken", samples)
    (folder / "folder").mkdir()
    write_folder(folder / "folder", rows(40))
    for name, adjective in (("folder", "small"), ("other", "large")):
        texts = {f"{number:03d}.png": f"a {adjective} {number}" for number in range(40)}
        (folder / f"{name}.json").write_text(json.dumps(texts))


def write_tokenizers(folder: Path) -> None:
    folder.mkdir()
    (folder / "text.txt").write_text("\n".join(f"a red circle and {number} blue squares" for number in range(50)))
    for name, size in (("first", 300), ("second", 290)):
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "text.txt"),
            model_prefix=str(folder / name),
            vocab_size=size,
            model_type="bpe",
            byte_fallback=True,
            hard_vocab_limit=False,
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )


def write_masks(folder: Path, *, shift: int) -> None:
    """Pictures wider than high, with a mask whose halves are of two classes, and captions."""
    for part in ("images", "masks"):
        for split in ("train", "val"):
            (folder / part / split).mkdir(parents=True)
    classes = [
        {"id": number, "name": name, "prompt": name} for number, name in enumerate(("circle", "sand", "background"))
    ]
    (folder / "classes.json").write_text(json.dumps({"ignore": 9, "classes": classes}))
    for split in ("train", "val"):
        captions = {}
        for number in range(12):
            picture = Image.open(io.BytesIO(picture_bytes(number + shift, size=(64, 40)))).convert("RGB")
            picture.save(folder / "images" / split / f"{number:02d}.jpg")
            mask = np.full((40, 64), number % 3, dtype=np.uint8)
            mask[:, 32:] = (number + 1) % 3
            Image.fromarray(mask).save(folder / "masks" / split / f"{number:02d}.png")
            captions[f"{number:02d}.jpg"] = [f"picture {number}"]
        (folder / f"captions_{split}.json").write_text(json.dumps(captions))


def write_classes(folder: Path, *, alike: bool) -> None:
    """Two classes of seven pictures of noise; those of a class are all the same when they are `alike`."""
    drawn = count()
    for split in ("train", "val"):
        for label, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for number in range(7):
                content = picture_bytes(label if alike else next(drawn), size=(32, 32))
                (folder / split / name / f"{number}.png").write_bytes(content)


def write_pairs(folder: Path, *, alike: bool) -> None:
    """Sixteen pictures with two captions each; the wrong one is the right one where they are `alike`."""
    (folder / "val2017").mkdir(parents=True)
    rows = {}
    for number in range(16):
        (folder / "val2017" / f"{number}.png").write_bytes(picture_bytes(number, size=(32, 32)))
        caption = f"picture {number}"
        wrong = caption if alike else f"{number * 7} pictures"
        rows[str(number)] = {"filename": f"{number}.png", "caption": caption, "negative_caption": wrong}
    (folder / "swap_obj.json").write_text(json.dumps(rows))


def write_instances(folder: Path, *, alike: bool) -> None:
    """Six instances with two pictures and a query each; those of an instance are the same where they are `alike`."""
    drawn = count()
    for part, pictures in (("index", 2), ("query", 1)):
        for label in range(6):
            (folder / part / f"thing {label}").mkdir(parents=True)
            for number in range(pictures):
                content = picture_bytes(label if alike else next(drawn), size=(32, 32))
                (folder / part / f"thing {label}" / f"{number}.png").write_bytes(content)


def write_geometry(folder: Path, *, shift: int) -> None:
    """Pictures wider than high with a depth that rises to the right, and normals that face the camera."""
    folder.mkdir(parents=True)
    for number in range(6):
        picture = Image.open(io.BytesIO(picture_bytes(number + shift, size=(64, 40)))).convert("RGB")
        picture.save(folder / f"{number}_rgb.jpg")
        millimetres = np.tile(np.linspace(1000, 3000 + 200 * number + shift, 64), (40, 1)).astype(np.uint16)
        Image.fromarray(millimetres).save(folder / f"{number}_depth_mm.png")
        normals = np.full((40, 64, 3), (128, 128, 1), dtype=np.uint8)
        Image.fromarray(normals).save(folder / f"{number}_normal_derived.png")
