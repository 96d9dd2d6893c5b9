"""One file for each group of figures; each has one door, ``measure(quick)``."""
