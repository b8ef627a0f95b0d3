"""Base codecs: building them, their weights, and what identifies them. Nothing here knows of adapters."""
