"""The notebooks of examples/ from top to bottom, on a small recipe in place of theirs.

    python notebooks.py EXAMPLES FOLDER      in whichever environment this python belongs to

FOLDER holds micro.yaml; the executed notebooks are written there too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

# By notebook, in this order: parts of cells and what replaces them. Every part must occur once.
CHANGES = {
    "train_and_read.ipynb": {'"arithmetic"': '"micro.yaml"', '"../runs/': '"runs/'},
    "judge.ipynb": {
        '"../runs/': '"runs/',
        '"6 a+3 b*7 c-8 d+1 e*3>"': '"3 a+2 b+1>"',
        '["a+3=9", "b*7=4", "c-8=6", "d+1=7", "e*3=1"]': '["a+2=6"]',
        '["a+3=9", "b*7=3", "c-8=5", "d+1=6", "e*3=8"]': '["a+2=5"]',
        "[2]": "[1]",
        "a+3=9\\nb*7=4\\n": "a+2=6\\n",
    },
}
WHERE = "import genac\nprint('genac from', genac.__file__)"


def execute(examples: Path, folder: Path) -> None:
    """Runs both; an error in a cell is raised."""
    import nbclient
    import nbformat

    for name, changes in CHANGES.items():
        book = nbformat.read(examples / name, as_version=4)
        for old, new in changes.items():
            (cell,) = (c for c in book.cells if c.cell_type == "code" and old in c.source)
            cell.source = cell.source.replace(old, new)
        book.cells.append(nbformat.v4.new_code_cell(WHERE))
        client = nbclient.NotebookClient(
            book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        )
        nbformat.write(client.execute(), folder / name)


def printed(book: Path) -> str:
    """All outputs of an executed notebook."""
    cells = [c for c in json.loads(book.read_text())["cells"] if c["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    return "".join("".join(o.get("text", "")) + str(o.get("data", "")) for o in outputs)


if __name__ == "__main__":
    execute(*map(Path, sys.argv[1:3]))
