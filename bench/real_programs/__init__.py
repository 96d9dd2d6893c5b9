"""Programs as Debian has them, for the table of real programs: servers, and what is run."""
