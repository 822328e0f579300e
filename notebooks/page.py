"""An executed notebook as one HTML file that reads the same without a network.

nbconvert's own page fetches MathJax, require.js and the widget manager from other hosts. Here formulas are
MathML, which browsers draw by themselves (Chromium on Linux only with a font that knows where subscripts go,
hence the list of such), widgets give way to the static output beside them, and the buttons
of matplotlib's animations are characters instead of a font from elsewhere.
"""

import re
from copy import deepcopy

from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

WIDGET = "application/vnd.jupyter.widget-view+json"
WITHOUT_SCRIPTS = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}
<style>
math { font-family: "Latin Modern Math", "STIX Two Math", "Libertinus Math", "Cambria Math", "Noto Sans Math",
       "DejaVu Math TeX Gyre", math; }
.fa { font-style: normal; display: inline-block; }
.fa-minus::before { content: "\\2212"; } .fa-plus::before { content: "+"; }
.fa-fast-backward::before { content: "|\\25C0\\FE0E"; } .fa-fast-forward::before { content: "\\25B6\\FE0E|"; }
.fa-step-backward::before { content: "\\2039"; } .fa-step-forward::before { content: "\\203A"; }
.fa-play::before { content: "\\25B6\\FE0E"; } .fa-pause::before { content: "\\25A0"; }
.fa-flip-horizontal { transform: scaleX(-1); }
</style>
{%- endblock -%}
"""
LINK = re.compile(r'href="(\d\d_\w+)\.ipynb"')  # to another notebook, whose page lies beside this one
FONT = re.compile(r"<link[^>]*font-awesome[^>]*>")  # of animation.to_jshtml; the style above stands in for it


def mathml(formula: str, display: str = "inline") -> str:
    """TeX (no delimiters) as MathML; the TeX itself where a command in it is not known."""
    try:
        markup = convert(formula.replace("{aligned}", "{align*}"), display=display)
    except Exception:  # the converter has no common base for its errors, and may raise others on broken TeX
        markup = "\\"
    if "\\" not in markup:  # an unknown command comes through as it stands
        return markup
    mark = "$$" if display == "block" else "$"
    return f"{mark}{formula}{mark}".replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class _Renderer(IPythonRenderer):
    """nbconvert's Markdown, with MathML for formulas."""

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def block_math(self, body: str) -> str:
        return mathml(body, display="block")

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", display="block")


def _markdown(source: str) -> str:
    return MarkdownWithMath(renderer=_Renderer(escape=False)).render(source)


def _static(data: dict[str, str]) -> dict[str, str]:
    """One output's data by MIME type, as a page without scripts can show it."""
    kept = {kind: value for kind, value in data.items() if kind != WIDGET}
    if WIDGET in data and set(kept) <= {"text/plain"}:
        kept = {"text/html": "<em>A widget: open the notebook in JupyterLab to use it.</em>"}
    if "text/html" in kept:
        kept["text/html"] = FONT.sub("", kept["text/html"])
    if "text/latex" in kept and "text/html" not in kept:
        kept["text/html"] = mathml(kept["text/latex"].strip().strip("$").strip(), display="block")
    return kept


def to_html(notebook: NotebookNode, title: str) -> str:
    """The page for an executed notebook; the notebook is left as it is."""
    notebook = deepcopy(notebook)
    notebook.metadata["title"] = title
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "data" in output:
                output.data = NotebookNode(_static(output.data))
    exporter = HTMLExporter(raw_template=WITHOUT_SCRIPTS, filters={"markdown2html": _markdown})
    return LINK.sub(r'href="\1.html"', exporter.from_notebook_node(notebook)[0])
