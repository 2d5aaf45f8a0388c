"""Where work runs: the contract (`system.py`), one file per execution system, the runner and its guard.

Free of imports: the runner is loaded from here on hosts with nothing but Python 3.6.
"""
