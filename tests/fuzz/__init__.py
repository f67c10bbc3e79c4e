"""Fuzzing: one harness for each parser of what others write.

`targets` has the harnesses. `tests/unit/test_fuzz.py` runs each for a moment on inputs of
hypothesis; ``tox -e fuzz`` runs each for a minute under atheris, which looks for inputs that reach
new lines (`run`).
"""
