"""Warm state: what was made once, with what it depends on, to start from again and again."""
