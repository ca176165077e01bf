"""The public functions, one line each in `graphfuse.__init__`: thin over `graphfuse.steps`."""
