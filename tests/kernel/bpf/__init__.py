"""The differential test of the kernel data path: its parts.

The Python translation is the reference. A packet of a generated sequence goes through the compiled
program (BPF_PROG_TEST_RUN) and through the core, and both must end with the same bytes and the same
numbers, or the program must have left the packet alone; which of the two is stated with each kind.
"""
