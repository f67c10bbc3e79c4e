"""States: seeded data that is made once, with its inputs, and reused."""
