"""Entry point of `python -m benchmarks.samplers`; see `few_steps.py`."""

from benchmarks.samplers.few_steps import main

if __name__ == "__main__":
    main()
