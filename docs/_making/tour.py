"""`python docs/_making/tour.py` carries docs/tour.ipynb out and keeps what it says; `page` shows it on the site.

DISTILL_TOUR_STEPS and DISTILL_TOUR_PICTURES make it shorter, as its test does.
"""

import argparse
import base64
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).resolve().parents[1] / "tour.ipynb"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
KERNEL = "of-this-python"


def carry_out(notebook: Path, to: Path) -> None:
    """Run every cell in an empty folder that goes afterwards, by a kernel of this python, and write the notebook.

    Raises nbclient's CellExecutionError for the first cell that fails.
    """
    import nbformat
    from nbclient import NotebookClient

    read = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as place:
        spec = Path(place) / "kernels" / KERNEL
        spec.mkdir(parents=True)
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (spec / "kernel.json").write_text(json.dumps({"argv": command, "display_name": KERNEL, "language": "python"}))
        # Neither kernels nor profiles of the person at this machine count.
        os.environ.update(JUPYTER_PATH=place, IPYTHONDIR=str(Path(place) / "ipython"))
        work = Path(place) / "work"
        work.mkdir()
        client = NotebookClient(
            read, kernel_name=KERNEL, timeout=None, record_timing=False, resources={"metadata": {"path": str(work)}}
        )
        client.execute()
    for cell in read.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.from_dict(each) for each in plain(cell.outputs)]
    read.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(read, to)


def plain(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Texts in a row as one, without colours and warnings; of pictures the pixels alone."""
    kept: list[dict[str, Any]] = []
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            picture = {"image/png": data["image/png"]}
            kept.append({"output_type": "display_data", "metadata": {}, "data": picture})
        elif output.get("name") != "stderr":
            text = COLOURS.sub("", "".join(output.get("text", data.get("text/plain", ""))))
            if kept and kept[-1]["output_type"] == "stream":
                kept[-1]["text"] += text
            else:
                kept.append({"output_type": "stream", "name": "stdout", "text": text})
    return kept


def page(notebook: Path = NOTEBOOK) -> tuple[str, dict[str, bytes]]:
    """The notebook as Markdown, and the pictures that it shows by their file names."""
    parts, pictures = [], {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                name = f"{notebook.stem}_{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(output["data"]["image/png"]))
                parts.append(f"![What the cell shows]({name})")
            else:
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
    title, *others = parts
    where = f"This page is a [notebook]({notebook.name}), as it ran on two CPU cores."
    return "\n\n".join([title, where, *others]) + "\n", pictures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run the tour and keep what it says.")
    parser.add_argument("--to", type=Path, default=NOTEBOOK, metavar="FILE", help="(default: in place)")
    carry_out(NOTEBOOK, parser.parse_args().to)
