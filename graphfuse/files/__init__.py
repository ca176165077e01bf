"""A model as files: what is admitted, read, copied and written."""
