"""Other systems: what graphfuse promises of files, where POSIX's functions are missing."""
