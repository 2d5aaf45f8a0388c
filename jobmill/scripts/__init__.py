"""One file per console command; no logic."""
