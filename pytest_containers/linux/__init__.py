"""System calls behind typed functions: the one place that knows ctypes, numbers and errno.

Modules are imported one by one where needed; this package imports nothing, since the
launcher's and supervisor's start-up time is a container's.
"""
