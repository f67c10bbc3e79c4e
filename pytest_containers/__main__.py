"""``python -m pytest_containers``: the command line, where its script is not on the path."""

from pytest_containers.cli import main

raise SystemExit(main())
