"""Images: where they come from, and the store that keeps them unpacked.

Nothing is imported here: the unpacker starts in a bare interpreter.
"""
