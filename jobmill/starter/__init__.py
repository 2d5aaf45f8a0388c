"""The starter: makes the Job object of the right class and launches it on its system."""
