"""Entry point of `python -m benchmarks.likelihood`; see `speed.py`."""

from benchmarks.likelihood.speed import main

if __name__ == "__main__":
    main()
