"""Many models at once, what is lost on the way, clusters and storages."""
