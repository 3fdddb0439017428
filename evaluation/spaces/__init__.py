"""Feature spaces, in which samples and data are compared: functions from images to features."""
