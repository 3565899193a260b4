"""The training loop: from a recipe to a finished run folder."""

import json
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from distill.cache.write import ensure_cache
from distill.compose import Parts, compose, load_teacher, who
from distill.config import TASKS_WITH_TEXT, Recipe, by_teacher, save_recipe
from distill.data.loader import BatchStream
from distill.data.sources import open_source
from distill.encoders.attention import choose_attention
from distill.encoders.batch_norm import join_processes
from distill.environment import environment
from distill.eval.in_training import evaluate_in_training
from distill.eval.metrics import is_error
from distill.exit_codes import DIVERGED, FINISHED, INTERRUPTED
from distill.train import checkpoint, resume
from distill.train.clock import Clock, peak_bytes
from distill.train.guard import FiniteGuard, NonFiniteLoss, StopRequest, alone_in
from distill.train.journal import Journal, last_evaluation, write_atomically
from distill.train.measured import measured_in
from distill.train.optim import build_optimizer, teacher_groups, trained_parameters
from distill.train.step import Stepped, training_step


def train(recipe: Recipe) -> int:
    """Carry out a recipe, going on from its last checkpoint. Returns an exit code of `distill.exit_codes`."""
    accelerator = build_accelerator(recipe)
    with ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(alone_in(run_folder(recipe)))
        run = open_run(recipe, accelerator)
        training = Training(recipe, run=run, accelerator=accelerator)
        stop = stack.enter_context(StopRequest())
        stack.enter_context(training.journal)
        stack.callback(training.stream.close)
        try:
            code = training.carry_out(stop)
        except NonFiniteLoss as error:
            training.journal.say(f"stopped: {error}")
            training.journal.say(f"the last good checkpoint is kept in {run / 'checkpoints'}")
            code = DIVERGED
    accelerator.end_training()
    return code


def build_accelerator(recipe: Recipe) -> Accelerator:
    # Without being told, accelerate takes launched processes that find no GPU for as many runs of their own.
    on_cpu = recipe.run.device == "cpu" or not torch.accelerator.is_available()
    tracker = None if recipe.run.tracker == "none" else recipe.run.tracker
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=precision(recipe, on_cpu=on_cpu),
        log_with=tracker,
        project_dir=run_folder(recipe),
    )
    if tracker is not None and not accelerator.log_with:
        # accelerate would drop it without a word.
        raise ValueError(f"run.tracker={tracker}: its package is not installed; `pip install {tracker}`")
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != accelerator.num_processes:
        raise ValueError(
            f"{started} processes were started and accelerate joins {accelerator.num_processes}: each would train "
            "alone in the same folder; use a page of recipes/launch/ that fits this machine, or torchrun"
        )
    if recipe.data.batch_size % (accelerator.num_processes * recipe.optim.accumulate):
        raise ValueError(
            f"data.batch_size={recipe.data.batch_size} does not split over {accelerator.num_processes} processes "
            f"and optim.accumulate={recipe.optim.accumulate} micro-batches"
        )
    return accelerator


def precision(recipe: Recipe, *, on_cpu: bool) -> str:
    """accelerate's name for the recipe's precision; `auto` is bf16 where the device computes in it."""
    if recipe.precision == "auto":
        if torch.cuda.is_available() and not on_cpu:
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
        return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"
    return {"fp32": "no", "bf16": "bf16"}[recipe.precision]


def run_folder(recipe: Recipe) -> Path:
    return Path(recipe.run.folder) / (recipe.run.name or f"{recipe.name}-seed{recipe.seed}")


def open_run(recipe: Recipe, accelerator: Accelerator) -> Path:
    """The run's folder with its resolved recipe. Raises ValueError when it belongs to another recipe."""
    run = run_folder(recipe)
    if not recipe.run.resume and checkpoint.all_steps(run):
        raise ValueError(f"{run} holds checkpoints and run.resume=false: choose another run.name or delete it")
    resume.refuse_another_recipe(run, recipe)
    if accelerator.is_main_process:
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        checkpoint.clear_unfinished(run)
        save_recipe(recipe, run / "recipe.yaml")
    accelerator.init_trackers(recipe.name)
    accelerator.wait_for_everyone()
    return run


class Training:
    """One run in progress: its parts on their device, its position, and what it tells."""

    def __init__(self, recipe: Recipe, *, run: Path, accelerator: Accelerator):
        self.recipe, self.run, self.accelerator = recipe, run, accelerator
        self.parts = self._compose()
        self.measured = measured_in(self.parts)
        self.optimizer = build_optimizer(self.parts.learner, recipe)
        for group in teacher_groups(self.parts.teacher, recipe):
            self.optimizer.add_param_group(group)
        found = checkpoint.latest(run, say=print if accelerator.is_main_process else lambda message: None)
        self.step = found.step if found else 0
        position = None
        set_seed(recipe.seed + accelerator.process_index)
        if found:
            position = resume.restore(found, parts=self.parts, optimizer=self.optimizer, accelerator=accelerator)
        self.model = accelerator.prepare_model(self.parts.learner)
        self.stream = self._stream(position)
        self.journal = Journal(
            run, title=recipe.name, steps=recipe.optim.steps, first_step=self.step, is_main=accelerator.is_main_process
        )
        self.guard = FiniteGuard()
        self.best: tuple[float, int] | None = found.state()["best"] if found else None
        # A run that was killed between its last checkpoint and its summary has its scores in the journal.
        self.scores = last_evaluation(run / "metrics.jsonl") if accelerator.is_main_process else {}

    def _compose(self) -> Parts:
        device = self.accelerator.device
        say = print if self.accelerator.is_main_process else lambda message: None
        for recipe in by_teacher(self.recipe).values():
            if recipe.teacher.cache is not None:
                ensure_cache(recipe, device=device, precision=self.accelerator.mixed_precision, say=say)
        parts = compose(self.recipe)
        for part in (parts.learner, parts.teacher, parts.objective):
            if part is not None:
                part.to(device)
        if device.type == "cpu":
            choose_attention(parts.learner, parts.teacher, bf16=self.accelerator.mixed_precision == "bf16")
        if self.accelerator.num_processes > 1:
            join_processes(parts.learner.encoder.image, device)
        parts.learner.train()
        if self.recipe.compile:
            parts.learner.encoder.image.compile()
            for tower in parts.teacher.towers() if parts.teacher is not None else ():
                tower.compile()
        return parts

    def _stream(self, position: dict | None) -> BatchStream:
        text, image, teacher = self.parts.learner.encoder.text, self.parts.learner.encoder.image, self.parts.teacher
        size = self.recipe.data.image_size
        return BatchStream(
            self.recipe,
            source=open_source(self.recipe.data),
            grid=image.grid(size, size),
            teacher_views=self.parts.teacher_views,
            tokenize=text.tokenize if text is not None else None,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            device=self.accelerator.device,
            start_step=self.step,
            state=position,
            lookup=teacher.lookup() if teacher is not None else None,
        )

    def carry_out(self, stop: StopRequest) -> int:
        """Step until the end or until asked to stop."""
        self._announce()
        if self.step == self.recipe.optim.steps and (self.run / "summary.json").exists():
            self.journal.say("nothing is left to do; choose another run.name to train again")
            return FINISHED
        if self.recipe.evaluate.baselines and self.step == 0:
            self._evaluate_baselines()
        recipe, clock = self.recipe, Clock(self.stream, self.recipe.data.batch_size, step=self.step)
        for batch in self.stream:
            stepped = training_step(
                batch,
                model=self.model,
                parts=self.parts,
                optimizer=self.optimizer,
                accelerator=self.accelerator,
                progress=self.step / recipe.optim.steps,
                overhear=self._is_logged(self.step + 1) and recipe.masking.how == "replace",
            )
            self.guard.watch(self.step + 1, stepped.losses, stepped.gradient_norm, batch.ids)
            self.step += 1
            last = self.step == recipe.optim.steps
            if self.accelerator.device.type == "cpu":
                self.guard.check()
            if self._is_logged(self.step):
                self.guard.check()
                self._log(stepped, clock)
            evaluated = bool(recipe.evaluate.tasks) and (last or self._is_due(recipe.evaluate.every))
            if evaluated:
                self._evaluate(clock)
            # A measured step is kept: otherwise the best one would often have no checkpoint.
            if last or evaluated or self._is_due(recipe.run.checkpoint_every):
                self._save()
            elif self._asked_to_stop(stop):
                self._save()
                self.journal.say(f"asked to end: checkpoint written at step {self.step}; the same command goes on")
                return INTERRUPTED
        self._finish(clock)
        return FINISHED

    def _is_due(self, every: int) -> bool:
        """Whether what happens `every` so many steps happens now; 0 is never."""
        return every > 0 and self.step % every == 0

    def _is_logged(self, step: int) -> bool:
        return step % self.recipe.run.log_every == 0 or step in (1, self.recipe.optim.steps)

    def _asked_to_stop(self, stop: StopRequest) -> bool:
        """All ranks agree: one that stops alone would leave the others waiting."""
        if self.accelerator.num_processes == 1:
            return stop.requested
        requested = torch.tensor(float(stop.requested), device=self.accelerator.device)
        return bool(self.accelerator.reduce(requested, reduction="sum") > 0)

    def _log(self, stepped: Stepped, clock: Clock) -> None:
        losses = stepped.losses
        values = {"loss": losses.total.detach(), "gradient_norm": stepped.gradient_norm}
        values |= {f"loss/{name}": term for name, term in losses.terms.items()}
        values |= losses.diagnostics
        stacked = torch.stack(
            [torch.as_tensor(value, device=self.accelerator.device).float() for value in values.values()]
        )
        averaged = self.accelerator.reduce(stacked, reduction="mean").tolist()
        metrics = dict(zip(values, averaged, strict=True)) | clock.read(self.step)
        metrics["lr"] = max(group["lr"] for group in self.optimizer.param_groups)
        self.journal.log(self.step, metrics)
        self.accelerator.log(metrics, step=self.step)

    def _evaluate(self, clock: Clock) -> None:
        """Measure the student, or its teacher, on held-out pictures, on the main process."""
        self.guard.check()
        if self.accelerator.is_main_process:
            started = time.perf_counter()
            scores = evaluate_in_training(self.measured.encoder, self.measured.recipe)
            clock.evaluations.append(time.perf_counter() - started)
            shown = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
            cost = f"{clock.evaluations[-1]:.1f} s, evaluations took {clock.evaluation_share():.0%} of the time so far"
            self.journal.say(f"step {self.step}, {self.recipe.evaluate.side}: {shown}  ({cost})")
            scores |= {"evaluate_seconds": clock.evaluations[-1], "evaluate_share": clock.evaluation_share()}
            self.journal.log(self.step, {f"evaluate/{name}": value for name, value in scores.items()})
            name, deciding = next(iter(scores.items()))
            deciding = -deciding if is_error(name) else deciding
            if self.best is None or deciding > self.best[0]:
                self.best = (deciding, self.step)
            self.scores = scores
        self.accelerator.wait_for_everyone()

    def _evaluate_baselines(self) -> None:
        """What the numbers at the end are to be compared with: the student before, and the teacher it learns from."""
        if self.accelerator.is_main_process:
            started = time.perf_counter()
            found = {"untrained": evaluate_in_training(self.parts.learner.encoder, self.recipe)}
            for name, recipe in by_teacher(self.recipe).items() if self.recipe.teacher.kind != "momentum" else ():
                found[who(name)] = self._evaluate_teacher(name, recipe)
            for each, scores in found.items():
                shown = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
                self.journal.say(f"{each}: {shown}")
            self.journal.say(f"measured in {time.perf_counter() - started:.1f} s, before the first step")
            write_atomically(self.run / "baselines.json", json.dumps(found, indent=1))
        self.accelerator.wait_for_everyone()

    def _evaluate_teacher(self, name: str, recipe: Recipe) -> dict[str, float]:
        """Without a text tower a teacher is not measured on what needs one."""
        teacher = self.parts.teacher.members[name] if name else self.parts.teacher
        if recipe.teacher.cache is not None:
            teacher = load_teacher(recipe).to(self.accelerator.device)
        asked = recipe.evaluate.tasks
        lacks_text = teacher.encoder.text is None
        tasks = tuple(each for each in asked if not (lacks_text and each in TASKS_WITH_TEXT))
        if len(tasks) < len(asked):
            left = ", ".join(each for each in asked if each not in tasks)
            self.journal.say(f"{who(name)} has no text tower and is not measured on {left}")
        data = replace(recipe.data, image_size=teacher.image_size)
        return evaluate_in_training(teacher.encoder, replace(recipe, data=data), tasks=tasks)

    def _save(self) -> None:
        self.guard.check()
        resume.save(
            self.run,
            self.step,
            parts=self.parts,
            optimizer=self.optimizer,
            stream=self.stream,
            accelerator=self.accelerator,
            best=self.best,
        )
        if self.accelerator.is_main_process:
            best = self.best[1] if self.best else None
            checkpoint.prune(self.run, keep=self.recipe.run.keep, best=best, newest=self.step)
        self.accelerator.wait_for_everyone()

    def _announce(self) -> None:
        self.journal.say(f"{self.recipe.name}: {self.recipe.optim.steps} steps in {self.run}")
        if self.step:
            self.journal.say(f"going on after step {self.step}")
        for row in (*self.parts.taught_by, *self.parts.matches, *self.parts.report):
            self.journal.say(f"  {row}")
        for name, recipe in by_teacher(self.recipe).items():
            if recipe.teacher.cache is not None:
                self.journal.say(f"  {who(name)}: read from {recipe.teacher.cache}, not run")
        if self.recipe.teacher.kind == "partial":
            learning = sum(parameter.numel() for _, parameter in trained_parameters(self.parts.teacher))
            total = sum(parameter.numel() for parameter in self.parts.teacher.parameters())
            self.journal.say(f"  teacher: {learning:,} of {total:,} parameters trained")

    def _finish(self, clock: Clock) -> None:
        """Write summary.json: what was trained, on what, how it scored, and what was broken in the data."""
        if not self.accelerator.is_main_process:
            return
        baselines = self.run / "baselines.json"
        summary = {
            "name": self.recipe.name,
            "steps": self.step,
            "seconds": clock.total_seconds(),
            "seconds_per_step": clock.seconds_per_step(),
            "peak_bytes": peak_bytes(self.accelerator.device),
            "scores": self.scores,
            "evaluations": {
                "side": self.recipe.evaluate.side,
                "count": len(clock.evaluations),
                "seconds": sum(clock.evaluations),
                "share": clock.evaluation_share(),
            },
            "baselines": json.loads(baselines.read_text()) if baselines.exists() else {},
            "best": self.best,
            "parts": [row.as_dict() for row in self.parts.report],
            "teachers": [each.as_dict() for each in self.parts.taught_by],
            "data": self.stream.broken.summary(),
            "environment": environment() | {"precision": self.accelerator.mixed_precision},
        }
        write_atomically(self.run / "summary.json", json.dumps(summary, indent=1))
        if clock.evaluations:
            self.journal.say(
                f"{len(clock.evaluations)} evaluation(s) of the {self.recipe.evaluate.side} took "
                f"{sum(clock.evaluations):.1f} s, {clock.evaluation_share():.0%} of {clock.total_seconds():.1f} s"
            )
        self.journal.say(f"finished: {self.run}")
