"""All promises of an execution system, as one class of tests."""

from __future__ import annotations

from jobmill.testing.batches import Batches
from jobmill.testing.commands import Commands
from jobmill.testing.contract import Contract
from jobmill.testing.crashes import Crashes
from jobmill.testing.kills import Kills
from jobmill.testing.lives import Lives
from jobmill.testing.looks import Looks
from jobmill.testing.outcomes import Outcomes
from jobmill.testing.stages import Stages


class Conformance(Contract, Commands, Outcomes, Lives, Batches, Looks, Kills, Crashes, Stages):
    """Subclass it as ``Test…`` and give `make`; see `Subject` for what else can be given and declared."""
