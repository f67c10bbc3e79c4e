"""Dockerfiles as text: a parser that knows nothing of how they are run.

`parse` takes text and gives instructions with their positions; `expand` replaces variables in
words; `ignore` matches paths against ``.dockerignore``. The language is that of BuildKit's stable
frontend (docs.docker.com, "Dockerfile reference").
"""

from pytest_containers.builder.dockerfile.errors import DockerfileError
from pytest_containers.builder.dockerfile.expand import expand_text, expand_word, expand_words
from pytest_containers.builder.dockerfile.instructions import Dockerfile
from pytest_containers.builder.dockerfile.parser import parse, parse_trigger

__all__ = [
    "Dockerfile",
    "DockerfileError",
    "expand_text",
    "expand_word",
    "expand_words",
    "parse",
    "parse_trigger",
]
