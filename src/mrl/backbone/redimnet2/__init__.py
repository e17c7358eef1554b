"""ReDimNet2, the second generation: stages that also stride in time, see https://arxiv.org/abs/2603.11841."""
