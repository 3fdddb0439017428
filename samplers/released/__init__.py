"""The released code's predictor-corrector loop, with all its conventions."""
