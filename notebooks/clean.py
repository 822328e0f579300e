"""A git filter: the notebook on standard input as it is committed, without outputs and what JupyterLab notes in it.

`run_all.sh lab` sets it up for .gitattributes. The files keep their outputs, and `git status` stays clean.
"""

import sys

import nbformat
from nbconvert.preprocessors import ClearMetadataPreprocessor, ClearOutputPreprocessor

# What stays of metadata; papermill reads tags
NOTEBOOK, CELL = {"kernelspec", ("language_info", "name")}, {"tags"}

if __name__ == "__main__":
    notebook = nbformat.reads(sys.stdin.buffer.read().decode(), as_version=4)
    notebook, _ = ClearOutputPreprocessor().preprocess(notebook, {})
    kept = {"preserve_nb_metadata_mask": NOTEBOOK, "preserve_cell_metadata_mask": CELL}
    notebook, _ = ClearMetadataPreprocessor(**kept).preprocess(notebook, {})
    for cell in notebook.cells:
        if not cell.metadata.get("tags", True):  # an empty list, which JupyterLab adds
            del cell.metadata["tags"]
    sys.stdout.buffer.write((nbformat.writes(notebook).rstrip("\n") + "\n").encode())
