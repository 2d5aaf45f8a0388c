"""Words in a submission that only the host of an RQ worker can replace."""

HERE = "@run"  # in the place of a path, or before its first slash: the run folder
STEPS = "@steps"  # as the whole command: the program that runs steps
OUTPUTS = "wanted.json"  # file of a launch: a JSON list of the globs of what it is to leave
