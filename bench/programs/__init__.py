"""Ordinary TCP programs, and the verdict handler that the service is compared with."""
