"""What all tests share. Imports nothing of distill: jaxtyping's hook must come first."""

import os
from pathlib import Path

# Before anything reads them: no test touches the network, and small tensors are fastest on one thread.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no GPU."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real pictures: `data` in the folder DISTILL_SHARED, or in `shared` beside the checkout."""
    folder = Path(os.environ.get("DISTILL_SHARED", REPOSITORY.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip("no real pictures; set DISTILL_SHARED to the folder that holds data/")
    return folder
