"""The CPU kernels, each instruction set of this machine, against float64 and against themselves."""
