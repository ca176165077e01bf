"""Transformers to export: Hugging Face architectures, torch.nn.Transformer, a trained encoder."""
