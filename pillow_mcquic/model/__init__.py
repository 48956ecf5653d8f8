"""The model: transforms, codebooks, means, and the entropy model that chooses probability tables."""
