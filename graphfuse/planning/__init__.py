"""What is worth rewriting, and into which node: targets, versions, costs."""
