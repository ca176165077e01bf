"""Views of the records: a JSON document, the terminal."""
