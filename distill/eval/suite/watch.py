"""What a person sees of a suite: a bar with the time that is left on a terminal, one line a measurement elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from distill.eval.metrics import shown_value
from distill.eval.progress import watching


class Shown:
    """Progress over all measurements, counted in pictures; while a probe is trained, over its steps."""

    def __init__(self, num_pictures: dict[str, int], *, title: str, console: Console):
        """`num_pictures` of every measurement."""
        self.num_pictures = num_pictures
        self.title = title
        self.console = console
        self._bars = Progress(
            TextColumn("[bold]{task.description}", markup=True),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._all = self._bars.add_task("all", total=sum(num_pictures.values()), unit="pictures")
        self._one: TaskID | None = None
        self._seen = self._expected = 0

    def __enter__(self) -> "Shown":
        self.say(f"{self.title}: {len(self.num_pictures)} measurements, {sum(self.num_pictures.values())} pictures")
        self._bars.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    @contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        """Inside, the bars follow what the task says of itself."""
        self._seen, self._expected = 0, self.num_pictures[name]
        self._one = self._bars.add_task(name, total=self._expected, unit="pictures")
        try:
            with watching(self):
                yield
        finally:
            self._bars.remove_task(self._one)
            self._one = None
            self._bars.advance(self._all, self._expected - self._seen)

    def pictures(self, count: int) -> None:
        """Tasks may look at a picture more than once; the sum over all tasks may not run ahead."""
        assert self._one is not None
        count = min(count, self._expected - self._seen)
        self._seen += count
        self._bars.update(self._one, completed=self._seen, total=self._expected, unit="pictures")
        self._bars.advance(self._all, count)

    def steps(self, done: int, total: int) -> None:
        assert self._one is not None
        self._bars.update(self._one, completed=done, total=total, unit="steps of the probe")

    def already(self, name: str) -> None:
        self._bars.advance(self._all, self.num_pictures[name])
        self.say(f"  {name}: there already")

    def done(self, name: str, values: dict[str, float | int | None], seconds: float | int) -> None:
        headline, value = next(iter(values.items()))
        self.say(f"  {name}: {headline} {shown_value(headline, value)} ({seconds:.0f} s)")

    def failed(self, name: str, error: str) -> None:
        self.say(f"  {name}: FAILED: {error}")

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
