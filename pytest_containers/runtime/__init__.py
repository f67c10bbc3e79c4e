"""The container runtime: it knows no pytest and no image, only layers and OCI configs.

Imports nothing: the start-up time of launcher and supervisor is a test's.
"""
