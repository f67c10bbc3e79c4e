#!/bin/sh
# An entrypoint with nothing to prepare.
exec "$@"
