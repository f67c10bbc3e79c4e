"""Results that machines share through the repository of a registry."""
