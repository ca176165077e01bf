"""Fused models that are wrong on purpose, and which gate notices.

    python -m tests.campaigns.mutants
    python -m tests.campaigns.mutants --models bert,llama --types float16 --families graphfuse
    python -m tests.campaigns.mutants --models models/bert.onnx,models/llama-float16.onnx

Every kind of mutant that the acceptance rule names is applied to exported models in float32 and
float16, fused into graphfuse's operators and into onnxruntime's. The table says which gates notice
at `fast` and at `full`, and whether `numpy.allclose(rtol=1e-3, atol=1e-5)` would have.
"""
