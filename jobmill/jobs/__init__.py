"""What runs: the spec of a job, its states, and one Job class per file."""
