"""Starting runs: here, in several processes, on a cluster."""
