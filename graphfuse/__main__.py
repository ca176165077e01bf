"""python -m graphfuse."""

from graphfuse.cli import main

main()
