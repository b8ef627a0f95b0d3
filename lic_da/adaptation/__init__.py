"""Adapting a frozen codec at its decoder: sites, adapter bank, gate, the decoder swap, packs."""
