"""The CUDA story, for a machine with an NVIDIA GPU and without a network: see run.sh."""
