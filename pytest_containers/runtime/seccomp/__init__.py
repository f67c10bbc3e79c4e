"""Filters of system calls (seccomp(2)): policies, and their compiler.

A policy comes from an OCI config (`policy`), or is Docker's default (`default`); `compiler` makes
machine code for the kernel's filter machine of it. `builtin` is the default, compiled.
"""
