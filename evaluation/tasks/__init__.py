"""What is done with a trained model: one measurement, or one mode of the program, a file."""
