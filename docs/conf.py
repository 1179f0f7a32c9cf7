"""How Sphinx builds the site: ``make docs``."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import version as version_of
from pathlib import Path

from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "gi2nnunet"
author = "The gi2nnunet authors"
copyright = "the gi2nnunet authors; Apache-2.0"
release = version = version_of("gi2nnunet")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "command_reference"]
exclude_patterns = ["_build", "_extensions"]
nitpicky = True
# What other packages document is not looked up: the site builds without a network.
nitpick_ignore_regex = [(r"py:.*", r"(?!gi2nnunet\.).*"), (r"py:.*", r".*\.Annotated")]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebook is shown as `make notebook` stored it
highlight_language = "none"  # indented blocks are commands and output
smartquotes = False  # would make an en dash of the -- of an option, and curl a shell's quotes

autodoc_member_order = "bysource"
autodoc_default_options = {"ignore-module-all": True}  # each name where it is defined
autodoc_typehints = "signature"
python_maximum_signature_line_length = 80  # longer ones: a line a parameter
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
autoclass_content = "class"
napoleon_google_docstring = False
# Several attributes may share a line of the docstring, as parameters may.
napoleon_custom_sections = [("Attributes", "params_style")]

html_theme = "furo"
html_title = f"gi2nnunet {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_search_scorer = str(Path(__file__).parent / "_static/scorer.js")
html_copy_source = False
html_show_sphinx = False


def setup(app: Sphinx) -> None:
    """Connect the function below."""
    app.connect("missing-reference", show_undocumented)


def show_undocumented(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: Element
) -> Element | None:
    """Show a name of the package that has no entry here as plain text, if it exists at all."""
    module, _, name = str(node.get("reftarget", "")).rpartition(".")
    if node.get("refdomain") != "py" or not module.startswith("gi2nnunet"):
        return None
    for home in (f"{module}.{name}", module):
        try:
            found = importlib.import_module(home)
        except ImportError:
            continue
        if home != module or hasattr(found, name):
            return text
    return None  # a warning, so that a name that was changed is noticed
