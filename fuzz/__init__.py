"""Coverage-guided fuzzing of the core; see README.md here."""
