"""The kernel data path: programs for tc, and what they share with the process."""
