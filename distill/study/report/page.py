"""A report as a list of blocks, and the same blocks as Markdown and as one HTML file that needs nothing else."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str
    notice: bool = False
    """A warning that stands out."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """`align` has one letter a column: l or r. A table with a `fold` title is closed until it is clicked."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str
    caption: str = ""
    fold: str = ""


@dataclass(frozen=True, kw_only=True)
class Said:
    """A claim, its verdict, the difference it is about, and the numbers behind that."""

    decision: str
    claim: str
    difference: str
    details: str


@dataclass(frozen=True, kw_only=True)
class Claims:
    items: tuple[Said, ...]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG beside the report."""

    path: Path
    alt: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Text as it is, closed until it is clicked."""

    fold: str
    text: str


Block = Heading | Paragraph | Table | Claims | Picture | Listing


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Pictures are linked by their file names."""
    return "\n\n".join([f"# {title}", *(_block_markdown(block) for block in blocks)]) + "\n"


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """One page with its pictures inside."""
    body = "\n".join(_block_html(block) for block in blocks)
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(title=escape(title), body=body)


def _block_markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {text}"
        case Paragraph(text, notice):
            return f"> {text}" if notice else text
        case Table():
            return _table_markdown(block)
        case Claims(items=items):
            return "\n".join(
                f"- **{_sentence_case(said.decision)}.** {said.claim}: {said.difference}. {said.details}"
                for said in items
            )
        case Picture(path=path, alt=alt, caption=caption):
            return f"![{alt}]({path.name})" + (f"\n\n*{caption}*" if caption else "")
        case Listing(fold=fold, text=text):
            return f"{fold}:\n\n```yaml\n{text.rstrip()}\n```"


def _table_markdown(table: Table) -> str:
    rule = ["---" if side == "l" else "---:" for side in table.align]
    lines = [_row(table.header), _row(rule), *(_row(row) for row in table.rows)]
    parts = [f"{table.fold}:" if table.fold else "", "\n".join(lines), f"*{table.caption}*" if table.caption else ""]
    return "\n\n".join(part for part in parts if part)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _block_html(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Paragraph(text, notice):
            return f'<p class="notice">{escape(text)}</p>' if notice else f"<p>{escape(text)}</p>"
        case Table(fold=fold):
            return _folded(fold, _table_html(block)) if fold else _table_html(block)
        case Claims(items=items):
            return "\n".join(map(_claim_html, items))
        case Picture(path=path, alt=alt, caption=caption):
            data = base64.b64encode(path.read_bytes()).decode()
            image = f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
            said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
            return f"<figure>{image}{said}</figure>"
        case Listing(fold=fold, text=text):
            return _folded(fold, f"<pre>{escape(text)}</pre>")


def _table_html(table: Table) -> str:
    head = "".join(
        f'<th class="{side}">{_breakable(text)}</th>' for side, text in zip(table.align, table.header, strict=True)
    )
    rows = [
        "".join(f'<td class="{side}">{_breakable(text)}</td>' for side, text in zip(table.align, row, strict=True))
        for row in table.rows
    ]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    # A caption belongs to its table for screen readers; beneath it, it does not push the numbers away from the text.
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    return f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _breakable(text: str) -> str:
    """Escaped, and long dotted names may break after a dot, a slash or an underscore."""
    return re.sub(r"([./_])(?=[a-z]\w)", r"\1<wbr>", escape(text))


def _claim_html(said: Said) -> str:
    kind = said.decision.replace(" ", "-")
    badge = f'<span class="badge">{escape(_sentence_case(said.decision))}</span>'
    first = f"{badge} <strong>{escape(said.claim)}</strong> <span>{escape(said.difference)}</span>"
    return f'<div class="claim {kind}"><p>{first}</p><p>{escape(said.details)}</p></div>'


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]
