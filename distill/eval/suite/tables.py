"""A suite's results as Markdown: each table of published numbers with the new rows below it, and how they were made.

Shares are given in percent and errors in their unit, as papers give them. `cell` and `beside` are for the terminal,
where every value has its unit.
"""

import json
from collections.abc import Iterable, Sequence

from distill.eval.metrics import is_error, shown_value, unit_of
from distill.eval.suite.comparison import Compared, Interval, Score, comparable
from distill.eval.suite.measure import Outcome
from distill.eval.suite.page import Number, Published, Suite

NONE = "–"


def columns_of(suite: Suite, outcomes: Sequence[Outcome]) -> list[str]:
    """`measurement/value` of every column of the tables, then the headline of what no table shows."""
    columns = list(dict.fromkeys(column for table in suite.tables for column in table.columns.values()))
    shown = {column.partition("/")[0] for column in columns}
    for name in suite.measures:
        measured = next((each.measured[name] for each in outcomes if name in each.measured), None)
        if measured is not None and name not in shown:
            columns.append(f"{name}/{next(iter(measured.values))}")
    return columns


def page(suite: Suite, outcomes: Sequence[Outcome], compared: Sequence[Compared]) -> str:
    """The whole page: tables, differences where there are several encoders, what is missing, how it was measured."""
    by_column = {each.column: each for each in compared}
    parts = [f"# {suite.title}", *_limits(outcomes)]
    measured = [table for table in suite.tables if set(table.columns.values()) & {*by_column}]
    parts += [_table(table, outcomes, by_column) for table in measured]
    in_tables = {column for table in suite.tables for column in table.columns.values()}
    others = [each for each in compared if each.column not in in_tables]
    if others:
        parts.append(_others(others, outcomes))
    if len(outcomes) > 1:
        parts.append(_differences(compared, outcomes))
    parts.append(
        "Brackets are 95 % intervals over the held-out pictures (bootstrap). They do not say what another training of "
        "the same recipe would score."
    )
    parts.append(_absent(outcomes))
    parts += [
        _about(outcome, as_first=outcome is not outcomes[0] and _alike(outcome, outcomes[0])) for outcome in outcomes
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _limits(outcomes: Sequence[Outcome]) -> list[str]:
    limits = sorted({outcome.limit for outcome in outcomes if outcome.limit is not None})
    if not limits:
        return []
    return [
        f"**A quick look at {' and '.join(map(str, limits))} pictures of each set, not a result: these numbers do not "
        "compare with published ones.**"
    ]


def _table(table: Published, outcomes: Sequence[Outcome], by_column: dict[str, Compared]) -> str:
    lines = [f"## {table.title}", "", _row("encoder", table.columns), _rule(len(table.columns))]
    lines += [_row(model, map(_published, numbers)) for model, numbers in table.rows.items()]
    for place, outcome in enumerate(outcomes):
        cells = [_printed(by_column.get(column), place) for column in table.columns.values()]
        lines.append(_row(f"**{_label(outcome)}**", cells))
    if table.rows:
        lines += ["", f"Published rows: {table.source}. Not measured here."]
    return "\n".join(lines)


def _others(compared: Sequence[Compared], outcomes: Sequence[Outcome]) -> str:
    lines = ["## Other measurements", "", _row("value", map(_label, outcomes)), _rule(len(outcomes))]
    lines += [_row(each.column, (_printed(each, place) for place in range(len(outcomes)))) for each in compared]
    return "\n".join(lines)


def _differences(compared: Sequence[Compared], outcomes: Sequence[Outcome]) -> str:
    others = [f"{_label(outcome)} − {_label(outcomes[0])}" for outcome in outcomes[1:]]
    lines = ["## Differences", "", _row("value", others), _rule(len(others))]
    for each in compared:
        lines.append(_row(each.column, (_difference(each, place) for place in range(1, len(outcomes)))))
    lines += [
        "",
        "Paired by picture: all encoders see the same resamples. Bold where the whole interval lies on one side of 0; "
        "errors (metres, degrees) are better when smaller.",
    ]
    return "\n".join(lines)


def _difference(compared: Compared, place: int) -> str:
    first, other = compared.scores[0], compared.scores[place]
    if first is None or other is None or first.value is None or other.value is None:
        return NONE
    if not compared.alike[place]:
        return "measured otherwise"
    text = signed(compared.column, other.value - first.value)
    interval = compared.differences[place]
    if interval is None:
        return text
    text += f" [{signed(compared.column, interval.low)}, {signed(compared.column, interval.high)}]"
    return f"**{text}**" if interval.decided else text


def _absent(outcomes: Sequence[Outcome]) -> str:
    lines = []
    for outcome in outcomes:
        lines += [f"- {outcome.name}: {name}: {first_line(reason)}" for name, reason in outcome.missing.items()]
        lines += [f"- {outcome.name}: {name} FAILED: {first_line(error)}" for name, error in outcome.failed.items()]
    return "\n".join(["## Not measured", "", *lines]) if lines else ""


def _alike(outcome: Outcome, first: Outcome) -> bool:
    """Whether both were measured on the same data in the same way, as far as both were."""
    both = outcome.measured.keys() & first.measured.keys()
    return bool(both) and all(comparable(outcome.measured[name], first.measured[name]) for name in both)


def _about(outcome: Outcome, *, as_first: bool) -> str:
    """Who was measured and how, and what looked wrong; the how only once for encoders that were measured alike."""
    parts = [f"## How {_label(outcome)} was measured", f"`{json.dumps(outcome.who, sort_keys=True)}`"]
    parts.append("On the same data with the same settings as the first." if as_first else _settings(outcome))
    notes = [f"- {name}: {note}" for name, found in outcome.measured.items() for note in found.notes]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def _settings(outcome: Outcome) -> str:
    """What makes the numbers checkable: pictures, fingerprints, settings and cost."""
    lines = [_row("measurement", ["task", "pictures", "fingerprints of the data", "seconds"]), _rule(4)]
    for name, found in outcome.measured.items():
        data = found.identity["data"]
        prints = ", ".join(f"{each}: {data[each]['num_images']} `{data[each]['sha256']}`" for each in data)
        lines.append(_row(name, [found.task, str(found.num_images), prints, f"{found.seconds:.0f}"]))
    lines += ["", "<details><summary>Settings</summary>", "", "```json", _json(outcome), "```", "", "</details>"]
    return "\n".join(lines)


def _json(outcome: Outcome) -> str:
    settings = {name: found.settings for name, found in outcome.measured.items()}
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(said)}" for name, said in settings.items()) + "\n}"


def cell(compared: Compared, place: int) -> str:
    """An encoder's value with its unit and its interval, as a single task prints it."""
    score = compared.scores[place]
    if score is None or score.value is None:
        return NONE
    text, interval = shown_value(compared.column, score.value), score.interval
    if interval is None:
        return text
    return f"{text} [{_bare(compared.column, interval.low)}, {_bare(compared.column, interval.high)}]"


def beside(compared: Compared, place: int) -> str:
    """An encoder's value with its unit and its difference to the first's, as short text for narrow tables."""
    first, score = compared.scores[0], compared.scores[place]
    if score is None or score.value is None:
        return NONE
    text = shown_value(compared.column, score.value)
    if not place or first is None or first.value is None or not compared.alike[place]:
        return text
    interval = compared.differences[place]
    star = "*" if interval is not None and interval.decided else ""
    return f"{text} ({_with_sign(_bare(compared.column, score.value - first.value))}{star})"


def _bare(column: str, value: float | int) -> str:
    """With as many digits as `shown_value` gives, without the unit."""
    return shown_value(column, value).removesuffix(unit_of(column)).rstrip()


def _printed(compared: Compared | None, place: int) -> str:
    """An encoder's value with its interval, as papers print it."""
    score = None if compared is None else compared.scores[place]
    return NONE if score is None else _score(compared.column, score)


def _score(column: str, score: Score) -> str:
    if score.value is None:
        return NONE
    return f"{plain(column, score.value)}{_brackets(column, score.interval)}"


def _brackets(column: str, interval: Interval | None) -> str:
    return "" if interval is None else f" [{plain(column, interval.low)}, {plain(column, interval.high)}]"


def plain(column: str, value: float | int) -> str:
    """As papers print it: percent, degrees with one digit, metres with three."""
    if column.endswith("_metres"):
        return f"{value:.3f}"
    return f"{value:.1f}" if is_error(column) else f"{100 * value:.1f}"


def signed(column: str, value: float | int) -> str:
    return _with_sign(plain(column, value))


def _with_sign(text: str) -> str:
    return text if text.startswith("-") else f"+{text}"


def _label(outcome: Outcome) -> str:
    return outcome.name if outcome.limit is None else f"{outcome.name} ({outcome.limit} pictures a set)"


def _published(number: Number) -> str:
    return NONE if number is None else str(number)


def _row(first: str, cells: Iterable[str]) -> str:
    return f"| {first} | " + " | ".join(cells) + " |"


def _rule(count: int) -> str:
    return "|---|" + "---:|" * count


def first_line(text: str) -> str:
    """Without what is said in detail below it."""
    return text.partition("\n")[0]
