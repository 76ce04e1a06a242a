"""The tutorial as a notebook: python docs/notebook.py writes docs/tutorial.ipynb anew from docs/tutorial.md.

Commands (```sh) and files (```yaml title="mine.yaml") become code cells, prose Markdown cells; what the page shows of
their output is left out, for the notebook has its own: of cells that are as they were it is kept, and `--run` executes
all of them in a new folder, by nbclient.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
PAGE, NOTEBOOK = DOCS / "tutorial.md", DOCS / "tutorial.ipynb"
FENCE = re.compile(r'^```(\w*)(?: title="(\S+)")?\n(.*?)^```\n', re.MULTILINE | re.DOTALL)
LINES = 40
"""Most lines of a cell's output that are kept, the last ones."""


def cells() -> list[dict[str, Any]]:
    """The cells of the page, without outputs."""
    texts = re.split(r"(?m)(^```.*?^```\n)", PAGE.read_text(), flags=re.DOTALL)
    parts = [part for text in texts if (part := cell(text))]
    merged: list[dict[str, Any]] = []
    for part in parts:
        if merged and part["cell_type"] == merged[-1]["cell_type"] == "markdown":  # an output stood between them
            merged[-1]["source"] += "\n\n" + part["source"]
        else:
            merged.append(part)
    return [part | {"id": f"cell-{number}", "metadata": {}} for number, part in enumerate(merged)]


def cell(text: str) -> dict[str, Any] | None:
    """A piece of the page as a cell; None for an output and for nothing."""
    match = FENCE.fullmatch(text)
    if match is None or match[1] == "bash":  # bash: what stands before the notebook, such as installing
        return {"cell_type": "markdown", "source": text.strip()} if text.strip() else None
    language, name, code = match.groups()
    if language != "sh" and not name:
        return None
    source = f"%%writefile {name}\n{code}" if name else f"%%bash\n{code}"
    return {"cell_type": "code", "source": source.rstrip("\n"), "execution_count": None, "outputs": []}


def notebook() -> dict[str, Any]:
    """The notebook, with the outputs of cells that are as they were."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    written = json.loads(NOTEBOOK.read_text())["cells"] if NOTEBOOK.is_file() else []
    outputs = {each["source"]: each["outputs"] for each in written if "outputs" in each}
    kept = [each | ({"outputs": outputs[each["source"]]} if each["source"] in outputs else {}) for each in cells()]
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": kept}


def run(plain: dict[str, Any]) -> dict[str, Any]:
    """The notebook with what its cells write, in a new folder."""
    import nbformat
    from nbclient import NotebookClient

    os.environ["TTY_COMPATIBLE"] = "0"  # rich: Markdown tables, as on the page
    with tempfile.TemporaryDirectory() as folder:
        done = NotebookClient(
            nbformat.from_dict(plain), timeout=3600, resources={"metadata": {"path": folder}}
        ).execute()
    executed: dict[str, Any] = json.loads(nbformat.writes(done))
    for each in executed["cells"]:
        each["metadata"] = {}
        each["source"] = "".join(each["source"])
        if "outputs" in each:
            each["outputs"] = shorten(each["outputs"])
    return executed | {"metadata": plain["metadata"]}


def shorten(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One text for all that a cell wrote to stdout, without progress, which goes to stderr."""
    text = "".join("".join(output["text"]) for output in outputs if output.get("name") == "stdout")
    lines = text.splitlines(keepends=True)[-LINES:]
    return [{"output_type": "stream", "name": "stdout", "text": "".join(lines)}] if lines else []


if __name__ == "__main__":
    written = run(notebook()) if "--run" in sys.argv else notebook()
    NOTEBOOK.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n")
