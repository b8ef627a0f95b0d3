"""Finding the domains of a pile of images without labels: features, clusters, and rounds of training."""
