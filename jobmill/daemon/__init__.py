"""Keeps jobmill up: the embedded server and the supervisor. Workers are started by command, never by import."""
