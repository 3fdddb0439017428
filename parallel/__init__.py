"""Devices and processes: where arrays live, and who does what. Knows nothing of what is computed.

`mesh` lays devices out and says how arrays are spread over them; `processes` is about jobs of
several processes, which `start` begins once they have found each other (`meeting`), and which miss
one that is gone (`watch`). Training is one program over the devices of all processes; an evaluation
is a program of each process over its own devices, and batches are dealt out among the processes.
"""
