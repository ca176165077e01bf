"""Roads into graphfuse from what users hold: PyTorch modules, onnx_graphsurgeon graphs."""
