"""The method ``cawf``: a codec widened without forgetting (Katakol et al. 2021)."""
