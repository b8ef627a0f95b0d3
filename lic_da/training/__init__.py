"""Training: the Lightning modules, losses and programs."""
