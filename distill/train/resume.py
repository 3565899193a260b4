"""The complete state of a run: what goes into a checkpoint, and how it comes back to the bit."""

import json
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from distill.compose import Parts
from distill.config import Recipe, cache_places, differences, recipe_from_file, save_recipe
from distill.data.loader import BatchStream, merge_states
from distill.encoders.weights import load_strictly
from distill.train import checkpoint
from distill.train.checkpoint import Checkpoint
from distill.train.optim import trained_parameters


def save(
    run: Path,
    step: int,
    *,
    parts: Parts,
    optimizer: torch.optim.Optimizer,
    stream: BatchStream,
    accelerator: Accelerator,
    best: tuple[float, int] | None,
) -> None:
    """Write a checkpoint after `step` finished steps. Every rank calls this. `best`: deciding score and its step."""
    checkpoint.write_part(run, step, f"rank_{accelerator.process_index}", _generators())
    data_name = f"data_{accelerator.process_index}.json"
    checkpoint.write_part(run, step, data_name, stream.state_dict())
    if accelerator.is_main_process:
        checkpoint.write_part(run, step, "student", parts.learner.state_dict())
        checkpoint.write_part(run, step, "optimizer", _optimizer_state(optimizer, parts))
        checkpoint.write_part(run, step, "objective", parts.objective.state_dict())
        if changing := _changing_state(parts):
            checkpoint.write_part(run, step, "teacher", changing)
        state = {"step": step, "processes": accelerator.num_processes, "best": best}
        checkpoint.write_part(run, step, "state.json", state)
        save_recipe(parts.recipe, checkpoint.unfinished_folder(run, step) / "recipe.yaml")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        checkpoint.publish(run, step)
    accelerator.wait_for_everyone()


def restore(found: Checkpoint, *, parts: Parts, optimizer, accelerator: Accelerator) -> dict:
    """Bring everything back and return the data position. Call before the model is wrapped.

    With another number of processes than before, the data goes on exactly; generators of new ranks start from the
    seed, which only models with dropout notice.
    """
    restore_modules(found, parts)
    _restore_optimizer(optimizer, parts, found.tensors("optimizer"))
    rank, written_by = accelerator.process_index, found.state()["processes"]
    if rank < written_by:
        _restore_generators(found.tensors(f"rank_{rank}"))
    return merge_states([json.loads((found.folder / f"data_{other}.json").read_text()) for other in range(written_by)])


def restore_modules(found: Checkpoint, parts: Parts, *, with_student: bool = True) -> None:
    """Learner, objective and what training changed of the teacher; the learner stays as it is unless it is wanted."""
    if with_student:
        load_strictly(parts.learner, found.tensors("student"), what="student")
    load_strictly(parts.objective, found.tensors("objective"), what="objective")
    if changing := _changing_state(parts):
        unchanged = {name: value for name, value in parts.teacher.state_dict().items() if name not in changing}
        load_strictly(parts.teacher, unchanged | found.tensors("teacher"), what="teacher")


def refuse_another_recipe(run: Path, recipe: Recipe) -> None:
    """Raises ValueError with a diff when the run folder belongs to a different recipe.

    Name, places (a teacher cache's is one) and what is measured may differ: they do not change the training. A run that
    never took a step, because a file was missing for example, belongs to nobody.
    """
    path, journal = run / "recipe.yaml", run / "metrics.jsonl"
    has_begun = bool(checkpoint.all_steps(run)) or (journal.exists() and journal.stat().st_size > 0)
    if not path.exists() or not has_begun:
        return
    before = recipe_from_file(path)
    changed = differences(before, recipe, ignore=("run", "name", "evaluate", *cache_places(recipe)))
    if changed:
        lines = "\n  ".join(changed)
        raise ValueError(
            f"{run} was started with a different recipe:\n  {lines}\n"
            "go on with the same settings, or choose another folder with run.name=NAME"
        )


def _changing_state(parts: Parts) -> dict[str, Tensor]:
    """What training changes of the teacher: all of a momentum one, what learns of a partial one, else nothing."""
    if parts.teacher is None:
        return {}
    if parts.recipe.teacher.kind == "momentum":
        return parts.teacher.state_dict()
    return {name: parameter.detach() for name, parameter in trained_parameters(parts.teacher)}


def _optimised(parts: Parts) -> dict[str, nn.Parameter]:
    """Every trained parameter by its name in checkpoints; a teacher's begin with `teacher.`."""
    ours = dict(trained_parameters(parts.learner))
    if parts.teacher is not None:
        ours |= {f"teacher.{name}": parameter for name, parameter in trained_parameters(parts.teacher)}
    return ours


def _optimizer_state(optimizer: torch.optim.Optimizer, parts: Parts) -> dict[str, Tensor]:
    """Optimiser state by `STATE/PARAMETER`; torch's AdamW and Adafactor keep tensors only."""
    tensors = {}
    for name, parameter in _optimised(parts).items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value)
    return tensors


def _restore_optimizer(optimizer: torch.optim.Optimizer, parts: Parts, tensors: dict[str, Tensor]) -> None:
    parameters = _optimised(parts)
    for full_name, value in tensors.items():
        key, name = full_name.split("/", 1)
        # `step` stays on the CPU unless the optimiser is fused or capturable; torch wants it beside the parameter then.
        # A copy, because a loaded tensor lies in its file, which pruning will delete.
        optimizer.state[parameters[name]][key] = value.to(parameters[name].device, copy=True)


def _generators() -> dict[str, Tensor]:
    state = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_generators(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
