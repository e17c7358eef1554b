"""The accuracy study: which head, which start, which loss; see docs/accuracy-study.md."""
