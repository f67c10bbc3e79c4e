"""Registries: who we are to them, how to reach them, what they keep (distribution-spec 1.1)."""
