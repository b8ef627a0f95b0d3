"""Images: reading them, finding them, splitting them into domains, batching them."""
