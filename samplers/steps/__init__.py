"""One step from t to s: predictors, correctors, and pairs of both."""
