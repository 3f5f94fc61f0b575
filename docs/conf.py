"""The documentation site: `make docs`. Nothing in it is fetched from elsewhere, neither when it is built nor when it is read."""

import logging
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from medssl import __version__  # noqa: E402

logging.getLogger("numexpr").setLevel(logging.WARNING)  # it says how many threads it takes

project = "medssl"
author = "the authors of medssl"
project_copyright = author
release = version = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "tools", "_static", "gallery"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types of numpy, torch and pandas have no page here

html_theme = "furo"
html_title = "medssl"
html_static_path = ["_static", "gallery"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_search_summary = False  # it fetches pages, which a browser forbids below file://
html_theme_options = {"footer_icons": [], "top_of_page_buttons": []}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the notebook keeps the output of `make docs-test`
suppress_warnings = ["misc.highlighting_failure"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_use_legacy_class_based = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Options", "params_style"), ("Source", "notes_style")]
