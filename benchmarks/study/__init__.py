"""The accuracy study: which head, which start, which loss; see docs/appendix/accuracy-study.md."""
