"""The manager: validates, routes, admits, and grants each job when every set that it needs has room."""
