"""`python -m sslkit.launch --gin FILE`: the same as `sslkit launch`."""

import sys

from sslkit.cli import main

if __name__ == "__main__":
    main(["launch", *sys.argv[1:]], prog_name="python -m sslkit.launch")
