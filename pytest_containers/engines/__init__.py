"""Engines: what makes containers. Imports nothing: a plugin that is not used costs nothing."""
