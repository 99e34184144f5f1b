"""The worker of Text Generation Inference (TGI)."""
