"""`python -m sslkit.launch --gin FILE`: the same as `sslkit launch`."""

import sys

from sslkit.cli import launch
from sslkit.ending import quietly


def main() -> None:
    """Run the command `launch` under the name that was typed."""
    shows = "--traceback" in sys.argv[1:]
    words = [word for word in sys.argv[1:] if word != "--traceback"]
    quietly(lambda: launch.main(words, prog_name="python -m sslkit.launch"), shows)


if __name__ == "__main__":
    main()
