"""One EC2 instance of ours, as DescribeInstances tells it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

RECORD, SYSTEM, LAUNCH, LEASE = "jobmill:record", "jobmill:system", "jobmill:launch", "jobmill:lease"  # our tags

# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-lifecycle.html
COMING, RUNNING, GONE = ("pending",), ("running",), ("terminated",)
PAID = ("pending", "running", "shutting-down")  # counted as if paid, so that the ceiling errs on the safe side

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html
TAKEN_AWAY = frozenset(("Server.SpotInstanceTermination", "Server.SpotInstanceShutdown"))
_ENDED_AT = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")


@dataclass(frozen=True, kw_only=True)
class Instance:
    """What one look at EC2 said of an instance that bears our tags."""

    id: str
    state: str  # pending, running, shutting-down, terminated, stopping, stopped
    type: str
    launched: float  # Unix time, seconds, by EC2's clock
    private: str | None = None  # addresses
    public: str | None = None
    spot: bool = False
    reason: str = ""  # StateReason's code
    words: str = ""  # its message, else the state transition's reason
    ended: float | None = None  # Unix time of the end, where the transition's reason tells it
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def live(self) -> bool:
        """True while it may run something, or will."""
        return self.state in COMING or self.state in RUNNING

    @property
    def ending(self) -> bool:
        """True while it is neither live nor proved to be gone: `stopped` costs its disk and may be started again."""
        return not self.live and self.state not in GONE

    @property
    def launch(self) -> str:
        """Return the name of the intent for which it was launched."""
        return self.tags.get(LAUNCH, "")

    @property
    def taken_away(self) -> bool:
        """True when EC2 took a spot instance back."""
        return not self.live and self.reason in TAKEN_AWAY

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Instance:
        """Read one element of ``Reservations[].Instances[]``."""
        reason = found.get("StateReason") or {}
        transition = found.get("StateTransitionReason") or ""
        at = _ENDED_AT.search(transition)
        launched = found["LaunchTime"]
        return cls(
            id=found["InstanceId"],
            state=found["State"]["Name"],
            type=found.get("InstanceType", ""),
            launched=launched.timestamp(),
            private=found.get("PrivateIpAddress") or None,
            public=found.get("PublicIpAddress") or None,
            spot=found.get("InstanceLifecycle") == "spot",
            reason=reason.get("Code") or "",
            words=reason.get("Message") or transition,
            ended=datetime.strptime(at[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp() if at else None,
            tags={tag["Key"]: tag.get("Value", "") for tag in found.get("Tags") or ()},
        )

    def ours(self, record: str, system: str) -> bool:
        """Tell whether it bears both tags: nothing else is ever touched."""
        return bool(record and system) and self.tags.get(RECORD) == record and self.tags.get(SYSTEM) == system
