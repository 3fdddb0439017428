"""One step from t to s: predictors, correctors, and both in turn."""
