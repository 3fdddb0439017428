"""Time and memory of the code, compared with alternatives and with other packages."""
