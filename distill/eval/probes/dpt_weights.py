"""Released decoders of TIPSv2, from the files they come in, as DPT heads."""

import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from distill.encoders.weights import load_strictly, read_safetensors
from distill.eval.probes.dpt import DPTHead

Decoder = Literal["depth", "normals", "segmentation"]
PARTS = ("reassemble.", "convs.", "fusion_blocks.", "project.")


def load_decoder(path: str | Path, decoder: Decoder, *, width: int | None = None) -> DPTHead:
    """A decoder with its released weights, in eval mode on the CPU; its sizes are read off them.

    `width`: of the tokens that it is to read; None takes any.

    `path`: an .npz (or .zip) archive of one decoder, a .safetensors file that may hold several under `depth_head.`,
    `normals_head.` and `segmentation_head.`, or a folder with model.safetensors, as TIPSv2 is released for DPT.
    Raises ValueError for a file that is missing or damaged, or does not hold this decoder and nothing else of its name,
    and for a decoder of another width.
    """
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    found = read_safetensors(path) if path.suffix == ".safetensors" else _read_archive(path)
    tensors = decoder_tensors(found, decoder)
    what = f"{path}: the {decoder} decoder"
    try:
        own_width = len(tensors["reassemble.readout_projects.0.weight"])
        num_outputs, channels = tensors["head.weight"].shape
    except KeyError as missing:
        raise ValueError(f"{what} lacks {missing}") from missing
    if width is not None and own_width != width:
        raise ValueError(
            f"{what} reads tokens that are {own_width} wide, and those of this encoder are {width} wide: it belongs to "
            "an encoder of another size"
        )
    if decoder == "normals" and num_outputs != 3:
        raise ValueError(f"{what} has {num_outputs} outputs, and a normal has three numbers")
    head = DPTHead(width=own_width, num_outputs=num_outputs, channels=channels, relu=decoder == "depth")
    load_strictly(head, tensors, what=what)
    return head.eval()


def decoder_tensors(found: dict[str, Tensor], decoder: Decoder) -> dict[str, Tensor]:
    """The tensors of one decoder by the names that `DPTHead` has for them.

    Three layouts are known: `dpt.PART` and `head.`; PART and `TASK_head.` for the last layer; and `TASK_head.PART` with
    `TASK_head.TASK_head.`. Whatever else a file holds, such as an encoder, is left out.
    """
    own = f"{decoder}_head."
    tensors = {}
    for name, value in found.items():
        short = name.removeprefix(own).removeprefix("dpt.")
        if name in (f"{own}weight", f"{own}bias") or short.startswith(own):
            tensors[f"head.{name.rpartition('.')[2]}"] = value
        elif short.startswith((*PARTS, "head.")):
            tensors[short] = value
    return tensors


def _read_archive(path: Path) -> dict[str, Tensor]:
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a complete .npz archive")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except (ValueError, TypeError, OSError, zipfile.BadZipFile) as problem:
        raise ValueError(f"{path} is not an archive of plain arrays: {problem}") from problem
