"""Devices and processes: how arrays are placed and how work is divided, whatever is computed.

`mesh` arranges the devices and says how arrays are spread over them. `processes` exchanges results
in a job of several processes. `start` joins a process to its job, after `meeting` has connected the
processes; `watch` notices a process that has ended. Training is one program over the devices of all
processes. In an evaluation each process runs programs over its own devices, and batches are divided
among the processes.
"""
