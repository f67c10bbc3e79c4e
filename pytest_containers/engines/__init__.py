"""Engines, which make containers. Imports nothing, so that an unused plugin is cheap."""
