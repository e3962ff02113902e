"""`python -m minicpmv` is the same program as `minicpmv`."""

from minicpmv.cli.main import run

if __name__ == "__main__":
    run()
