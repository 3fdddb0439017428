"""Finished batches of an evaluation on disk, statistics that processes share, memory needed."""
