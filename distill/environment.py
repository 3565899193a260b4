"""Under what a measurement was made: hardware, versions and commit, without names of machines or people."""

import os
import platform
import subprocess
from pathlib import Path

import torch

from distill import __version__

CHECKOUT = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """What a report has to state beside its numbers."""
    return {
        "hardware": hardware(),
        "system": f"{platform.system()} on {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "distill": __version__,
        "commit": commit(CHECKOUT),
    }


def hardware() -> str:
    """The accelerator if torch sees one, and the processor with the number of threads torch uses."""
    processor = f"{_processor()}, {torch.get_num_threads()} of {os.cpu_count()} threads"
    return f"{torch.cuda.get_device_name()}; {processor}" if torch.cuda.is_available() else processor


def commit(checkout: Path) -> str:
    """Short commit of a checkout, `-dirty` when files differ from it; says so when the code is in no checkout."""
    if not (checkout / ".git").exists():
        return "not a checkout"
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown (git did not answer)"


def _processor() -> str:
    """The processor's own name where Linux tells it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"
