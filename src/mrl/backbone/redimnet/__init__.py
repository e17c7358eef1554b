"""ReDimNet, the first generation, see https://arxiv.org/abs/2407.18223."""
