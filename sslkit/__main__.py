"""`python -m sslkit COMMAND`: the same as `sslkit COMMAND`."""

from sslkit.cli import main

if __name__ == "__main__":
    main(prog_name="sslkit")
