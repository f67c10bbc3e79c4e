"""Engines: what makes containers. Imports nothing, so that a plugin that is not used costs nothing."""
