"""Wheels for the machines that people have: built here, looked into, and tried where they can be."""
