"""Fake schedulers for tests: the commands of PBS Pro and of LSF over a store in a folder. They really run jobs.

Each command is a program of the standard library alone, started without this package (`site.Site` writes the files for
PATH), so that it starts quickly; hence their imports of one another are relative.
"""
