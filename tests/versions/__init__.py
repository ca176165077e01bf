"""The tests, and measurements, on other versions of onnxruntime, of Python, and of what graphfuse needs."""
