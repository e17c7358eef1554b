"""Matryoshka speaker embeddings from pretrained ReDimNet models."""
