"""The GPUs of a node, read through NVML by one process of its own: the sampler.

An Xid can take the process that talks to the driver down, and a call to a failing GPU may never
return. So no training process ever loads NVML: the sampler does, and leaves what it reads in one
small file, from which every rank of the node takes what is said of its own GPU.

Nothing here imports torch; pynvml is imported by the sampler alone.
"""
