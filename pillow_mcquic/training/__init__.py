"""Training and export of models; loaded by its own commands alone."""
