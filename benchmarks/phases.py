"""Which part of a training step takes how long, by watching the calls it makes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.cases import Case
from benchmarks.meter import Spent, spend

PHASES = ("student forward", "teacher", "objective", "backward", "optimiser and clip", "follow", "rest")
"""`objective` holds the gradient of the prototype head too: it is computed in the loss's forward pass. `rest`:
autocast, schedules, clamping of temperatures."""


def phase_seconds(case: Case) -> dict[str, float]:
    """Seconds per phase of one step, on the clock of `Spent.on`. On a GPU every phase is waited for."""
    training, device = case.training, case.device
    parts = training.parts
    seen = {name: 0.0 for name in PHASES}
    calls = [
        ("student forward", training.model, "forward"),
        ("objective", parts.objective, "forward"),
        ("objective", parts.objective, "step"),
        ("backward", case.accelerator, "backward"),
        ("optimiser and clip", case.accelerator, "clip_grad_norm_"),
        ("optimiser and clip", training.optimizer, "step"),
        ("optimiser and clip", training.optimizer, "zero_grad"),
        ("teacher", parts.teacher, "targets"),
        ("follow", parts.teacher, "follow"),
    ]
    with ExitStack() as stack:
        for phase, thing, method in calls:

            def add(spent: Spent, phase: str = phase) -> None:
                seen[phase] += spent.on(device)

            stack.enter_context(_watched(thing, method, lambda work: spend(work, device), add))
        whole = spend(case.step, device).on(device)
    seen["rest"] = max(0.0, whole - sum(seen.values()))
    return seen


@contextmanager
def _watched(
    thing: object, method: str, measure: Callable[[Callable[[], object]], Spent], add: Callable[[Spent], None]
) -> Iterator[None]:
    """Hand the time of every call of `thing.method` to `add`, by an attribute of this one object."""
    own = vars(thing).get(method)
    original = own if own is not None else vars(type(thing)).get(method)
    call = getattr(thing, method)
    assert original is not None or callable(call)

    def timed(*arguments: object, **options: object) -> object:
        result = []
        add(measure(lambda: result.append(call(*arguments, **options))))
        return result[0]

    setattr(thing, method, timed)
    try:
        yield
    finally:
        if own is None:
            delattr(thing, method)
        else:
            setattr(thing, method, own)
