"""Entry point of `python -m benchmarks.guidance`; see `images.py`."""

from benchmarks.guidance.images import main

if __name__ == "__main__":
    main()
