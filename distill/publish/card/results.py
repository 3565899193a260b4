"""The card's section on what was measured: a table, what stands beside it, and how each result came about."""

from collections.abc import Iterator, Sequence

from distill.eval.naming import SCENES
from distill.publish.card.facts import Facts
from distill.publish.card.measured import HUB_TASKS, Measured, differing
from distill.publish.card.provenance import without_machine
from distill.publish.card.sections import details, table
from distill.publish.card.words import LESS, OF_A_CLS, TASK_WORDS, settings_in_words, shown, value_words

OF_SCENES = (
    "Scenes are small pictures that a program draws, with their masks, depths and captions; those held out are shown "
    "to no training."
)
BESIDE = {
    "untrained student": "the student before its first step",
    "moving average": "its momentum teacher, an average of the image tower's weights over the training",
    "student": "the student that was trained beside this model",
    "teacher before training": "the teacher as it was loaded",
    "teacher after training": "the teacher, parts of which learnt too",
}


def evaluation(facts: Facts) -> str:
    if not facts.results:
        return "Not measured."
    benchmarks = [each for each in facts.results if each.task in HUB_TASKS]
    inner = [each for each in facts.results if each.task not in HUB_TASKS]
    parts = [_table(benchmarks)] if benchmarks else []
    parts.append(_legend(benchmarks, inner))
    notes = [f"- {label}: {_sentence(note)}" for label, each in _labelled(facts.results) for note in _notes(each)]
    if notes:
        parts.append("Notes:\n\n" + "\n".join(dict.fromkeys(notes)))
    if inner:
        parts.append(details("What its features are like: no benchmarks", _table(inner)))
    settings = [f"- {label}: {_how(each)}." for label, each in _labelled(facts.results)]
    parts.append(details("Settings of these measurements", "\n".join(settings)))
    return "\n\n".join(part for part in parts if part)


def _columns(results: Sequence[Measured]) -> list[str]:
    """Who stands beside this model, teachers first."""
    names = dict.fromkeys(name for result in results for name in result.others)
    return sorted(names, key=lambda name: "untrained" in name)


def _labelled(results: Sequence[Measured]) -> Iterator[tuple[str, Measured]]:
    for each, own in zip(results, differing(results), strict=True):
        how = settings_in_words(own)
        yield f"**{TASK_WORDS[each.task]}**, {each.data}{f' ({how})' if how else ''}", each


def _table(results: Sequence[Measured]) -> str:
    rows, who = [], _columns(results)
    for each, own in zip(results, differing(results), strict=True):
        how = settings_in_words(own)
        first = [f"**{TASK_WORDS[each.task]}**{f', {how}' if how else ''}", each.data, _pictures(each)]
        for position, (name, value) in enumerate(each.values.items()):
            others = [shown(name, each.others[other].get(name)) if other in each.others else "" for other in who]
            label = value_words(name, each.values)
            rows.append([*(first if position == 0 else [""] * 3), label, shown(name, value), *others])
    return table(["task", "data", "pictures", "measure", "this model", *who], rows)


def _pictures(result: Measured) -> str:
    if result.num_images is not None:
        return f"{result.num_images:,}"
    return f"up to {result.settings['num_images']:,}"


def _legend(*tables: Sequence[Measured]) -> str:
    """Of all of them."""
    results = [each for table in tables for each in table]
    said = [f"“{name}” is {BESIDE[name]}." for name in _columns(results) if name in BESIDE]
    if any({*_columns(table)} - each.others.keys() for table in tables for each in table):
        said.append("An empty place was not measured on the same pictures in the same way.")
    if any(LESS in value_words(name, each.values) for each in results for name in each.values):
        said.append(f"{LESS}: less is better.")
    if any(each.data == SCENES for each in results):
        said.append(OF_SCENES)
    return " ".join(said)


def _notes(result: Measured) -> tuple[str, ...]:
    return tuple(without_machine(result.notes))


def _sentence(note: str) -> str:
    """Notes are written for a terminal, where they stand on lines of their own. Angle brackets would be HTML."""
    text = " ".join(note.split()).replace("<", "&lt;")
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


def _how(result: Measured) -> str:
    """Where two CLS tokens were measured, every value says which is its own."""
    suite = f"measurement {result.suite}, " if result.suite else ""
    both = any(OF_A_CLS.fullmatch(name) for name in result.values)
    heard = {key: value for key, value in result.settings.items() if not (both and key == "cls")}
    return suite + settings_in_words(without_machine(heard))
