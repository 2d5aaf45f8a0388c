"""The record that launches of tests belong to: one for each process of tests.

A kill finds all of a launch by its token on the whole machine: tests that run beside one another must not share any.
"""

import os

RECORD = f"rec{os.getpid()}"
