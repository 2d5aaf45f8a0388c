"""Routing: which system a job goes to, and why not to the others."""
