"""What can be seen of the service: the log, captures, figures, and how they are drawn."""
