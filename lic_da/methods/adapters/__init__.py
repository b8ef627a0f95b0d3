"""The method ``adapters``: residual adapters and a gate in a frozen decoder (Presta et al. 2024)."""
