"""Pages: one HTML file, or Markdown for a pull request, made of a JSON document alone."""
