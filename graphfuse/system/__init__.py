"""What lies outside: the machine, and libraries without types."""
