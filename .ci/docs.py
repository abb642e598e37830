"""Execute the notebooks on the sample into docs/notebooks, with small figures: `make docs`."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "notebooks"


def small(png: str) -> str:
    """A figure in 128 colours: a third of the size, and no difference to see."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(128)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def clean(notebook: nbformat.NotebookNode) -> None:
    """Keep what a reader looks at: no progress bars, no widgets, no text beside a figure."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        kept = []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in data:
                continue
            if "image/png" in data:
                output["data"] = {"image/png": small(data["image/png"])}
            elif "text/markdown" in data:
                data.pop("text/plain", None)
            kept.append(output)
        if cell.cell_type == "code":
            cell["outputs"] = kept
            cell.metadata.pop("execution", None)


def main() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    for script in sorted((ROOT / "notebooks").glob("*.py")):
        notebook = jupytext.read(script)
        where = {"metadata": {"path": str(ROOT)}}
        NotebookClient(notebook, timeout=1800, resources=where).execute()
        clean(notebook)
        nbformat.write(notebook, TARGET / f"{script.stem}.ipynb")
        print(f"{script.stem}: {(TARGET / f'{script.stem}.ipynb').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
