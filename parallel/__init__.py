"""Devices and processes: where arrays live, and which process does what.

`mesh` lays devices out and says how arrays are spread over them. `processes` has the operations of
a job of several processes. `start` begins a job once its processes have found each other
(`meeting`), and `watch` notices a process that is gone. Training is one program over the devices of
all processes. An evaluation is a program of each process over its own devices, and batches are
dealt out among the processes.
"""
