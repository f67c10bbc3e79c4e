"""Formats of images outside the store: tars, archives, layouts, compression."""
