"""What a kill leaves: finished batches on the disk, and what processes share."""
