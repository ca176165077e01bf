"""A release on its way: what is built, and what is asked of it before anybody gets it."""
