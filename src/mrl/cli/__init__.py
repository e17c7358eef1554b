"""The command line. Each verb has a file of its own that parses, calls and prints; the work is done in the other rooms."""
