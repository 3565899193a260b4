"""lightly-train's side of distill_throughput.py, for an interpreter that has lightly-train and need not have distill.

    PYTHON benchmarks/lightly_side.py --versions
    PYTHON benchmarks/lightly_side.py --pictures FOLDER --out FOLDER --student vit_tiny_patch16_224 ...

The last line of its output is JSON: versions, or the two clocks at the end of every step.
"""

import argparse
import json
import platform
import time
from importlib.metadata import version

METHOD = "distillationv3"


def versions() -> dict[str, str]:
    return {"lightly-train": version("lightly-train"), "torch": version("torch"), "python": platform.python_version()}


def ends_of_steps(options: argparse.Namespace) -> list[tuple[float, float]]:
    """(wall, processor) seconds when each of `options.steps` steps of lightly-train's own loop had ended."""
    import torch

    torch.set_num_threads(options.threads)
    import lightly_train
    from lightly_train._methods import method_helpers

    ends: list[tuple[float, float]] = []
    method = method_helpers.get_method_cls(METHOD)
    original = method.on_train_batch_end

    def noted(self, *arguments, **named):
        result = original(self, *arguments, **named)
        ends.append((time.perf_counter(), time.process_time()))
        return result

    method.on_train_batch_end = noted
    lightly_train.pretrain(
        out=options.out,
        overwrite=True,
        data=options.pictures,
        model=f"timm/{options.student}",
        method=METHOD,
        method_args={
            "teacher": f"timm/{options.teacher}",
            # Random weights said aloud: a timm teacher has them anyway, and offline there are no others.
            "teacher_args": {"pretrained": False},
            "queue_size": options.queue,
        },
        epochs=1000,
        batch_size=options.batch,
        num_workers=0,
        accelerator="cpu",
        devices=1,
        precision="32-true",
        loggers={"tensorboard": None},
        transform_args={"image_size": (options.image_size, options.image_size)},
        trainer_args={"max_steps": options.steps, "max_epochs": -1},
    )
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", action="store_true")
    for name in ("pictures", "out", "student", "teacher"):
        parser.add_argument(f"--{name}")
    for name in ("image-size", "batch", "queue", "steps", "threads"):
        parser.add_argument(f"--{name}", type=int)
    options = parser.parse_args()
    found = versions() if options.versions else {"ends": ends_of_steps(options)}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
