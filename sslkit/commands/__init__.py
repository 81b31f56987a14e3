"""What the commands do; `sslkit.cli` is how they are called."""
