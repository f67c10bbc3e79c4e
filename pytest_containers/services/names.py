"""Names that the fixtures of services share with the pytest plugin. Imports nothing."""

from __future__ import annotations

SCOPES = ("session", "package", "module", "class", "function")
"""The scopes of pytest, widest first."""

SCOPE_FIXTURES = {
    "function": "containers",
    "class": "class_containers",
    "module": "module_containers",
    "package": "package_containers",
    "session": "session_containers",
}
"""The fixtures of the plugin that hold the containers of a scope."""

WITHOUT_PLUGIN = "the plugin is not loaded (-p no:containers), and nothing starts without it"

RECIPE = "__containers_recipe__"
"""The attribute of a fixture function that holds its recipe, or True if it varies by test."""
