"""Sphinx."""

project = "pytest-containers"
author = "The pytest-containers developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
default_role = "code"
suppress_warnings = ["ref.python"]
nitpick_ignore_regex = [(r"py:.*", r".*")]
exclude_patterns = ["_build"]
