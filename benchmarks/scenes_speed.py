"""How many pictures a second the procedural world draws.

    python benchmarks/scenes_speed.py --threads 2 --size 64

Prints one JSON line per tier: pictures/s for pixels and mask, with depth and normals, and microseconds per caption,
with the hardware, versions and settings they were measured under. Each number is the best of `--repeats`.
`pictures_per_cpu_second` counts the time of all threads, so that it says something on a busy machine too.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable

import torch

from distill.config import Scenes
from distill.data.scenes import TIERS, SceneWorld


def best_seconds(work: Callable[[], object], *, repeats: int, device: str) -> tuple[float, float]:
    """Shortest wall time and shortest processor time of `repeats` calls, after one call to warm up."""
    work()
    walls, processors = [], []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        if device != "cpu":
            torch.accelerator.synchronize()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return min(walls), min(processors)


def measure(tier: str, *, size: int, batch: int, repeats: int, device: str) -> dict[str, float]:
    world = SceneWorld(Scenes(tier=tier), size)
    indices = torch.arange(batch)
    plain, processor = best_seconds(lambda: world.render(indices, "train", device), repeats=repeats, device=device)
    full, _ = best_seconds(
        lambda: world.render(indices, "train", device, geometry=True), repeats=repeats, device=device
    )
    numbers = {"pictures_per_second": batch / plain, "pictures_per_cpu_second": batch / processor}
    numbers["with_geometry_per_second"] = batch / full
    for granularity in ("alt", "short", "detailed"):
        spoken, _ = best_seconds(
            lambda g=granularity: world.captions(indices, g, "train"), repeats=repeats, device="cpu"
        )
        numbers[f"{granularity}_caption_microseconds"] = spoken / batch * 1e6
    return {name: round(value, 1) for name, value in numbers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for tier in TIERS:
        numbers = measure(tier, size=options.size, batch=options.batch, repeats=options.repeats, device=options.device)
        conditions = vars(options) | {"tier": tier, "torch": torch.__version__, "machine": platform.machine()}
        print(json.dumps(conditions | numbers))


if __name__ == "__main__":
    main()
