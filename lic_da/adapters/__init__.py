"""Adapters in a frozen decoder: formula, sites, kinds, bank, gate."""
