"""What is put around any sampler: its start, its repetitions, its end."""
