"""Sweeps: their jobs, what they saved together, the report."""
