"""The four calls of EC2 that a fleet needs, and what their errors are worth."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from jobmill.errors import SystemUnavailable
from jobmill.systems.ec2_instance import RECORD, SYSTEM, Instance

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

PAGE = 500  # instances of one answer; EC2 allows 5 to 1000
VALUES = 200  # of one filter, at most
STATES = ("pending", "running", "shutting-down", "stopping", "stopped", "terminated")


class Worth(enum.StrEnum):
    """What a refused call is worth."""

    CAPACITY = "capacity"  # EC2 has no such instance now, in this zone: another type may do
    LIMIT = "limit"  # the account's quota: wait until something ends, or ask for more
    THROTTLED = "throttled"  # too many calls: wait
    USED = "used"  # the client token belongs to an instance that has ended, or to another request
    WRONG = "wrong"  # the request can never succeed: somebody has to change the configuration


# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
WORTH: Mapping[str, Worth] = {
    "InsufficientInstanceCapacity": Worth.CAPACITY,
    "InsufficientHostCapacity": Worth.CAPACITY,
    "InsufficientReservedInstanceCapacity": Worth.CAPACITY,
    "InsufficientCapacity": Worth.CAPACITY,
    "SpotMaxPriceTooLow": Worth.CAPACITY,
    "Unsupported": Worth.CAPACITY,  # this type is not offered in this zone
    "InstanceLimitExceeded": Worth.LIMIT,
    "VcpuLimitExceeded": Worth.LIMIT,
    "MaxSpotInstanceCountExceeded": Worth.LIMIT,
    "MaxSpotFleetRequestCountExceeded": Worth.LIMIT,
    "InsufficientFreeAddressesInSubnet": Worth.LIMIT,
    "InsufficientAddressCapacity": Worth.LIMIT,
    "VolumeLimitExceeded": Worth.LIMIT,
    "PendingVerification": Worth.LIMIT,
    "RequestLimitExceeded": Worth.THROTTLED,
    "Throttling": Worth.THROTTLED,
    "ThrottlingException": Worth.THROTTLED,
    "EC2ThrottledException": Worth.THROTTLED,
    "IdempotentInstanceTerminated": Worth.USED,
    "IdempotentParameterMismatch": Worth.USED,
}
HINTS: Mapping[str, str] = {  # what to do, where EC2's words do not say it
    "RequestExpired": "log in again (aws sts get-caller-identity), or set the clock; no restart is needed",
    "ExpiredToken": "log in again (aws sts get-caller-identity); no restart is needed",
    "AuthFailure": "see that the credentials (aws sts get-caller-identity) and the clock are right",
    "UnauthorizedOperation": "see the rights that jobmill needs (docs/systems.md, ec2)",
}
LONG = re.compile(r"Encoded authorization failure message: \S+")  # a thousand letters, others each time
PASSING = frozenset(("InternalError", "InternalFailure", "Unavailable", "ServiceUnavailable", "RequestTimeout"))


NO_ANSWER = BotoCoreError, ResponseParserError  # the second: somebody else answered, a proxy for instance


class Refused(Exception):
    """EC2 answered no: certainly nothing was launched by this call."""

    def __init__(self, worth: Worth, words: str) -> None:
        """``words``: EC2's own."""
        super().__init__(words)
        self.worth = worth


class Cloud:
    """EC2 in one region. Calls block for a minute at most; every failure is SystemUnavailable or Refused.

    botocore's ``standard`` mode tries a call three times with growing, jittered pauses, and stops trying so when many
    fail; a launch is repeated under the same client token, so that it stays one.
    """

    def __init__(
        self,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        profile: str | None = None,
        timeout: float = 10.0,  # seconds of one try, to connect and to read
    ) -> None:
        """Secrets come by boto3's own chain alone: environment, ~/.aws, instance role."""
        retries: Any = {"mode": "standard", "total_max_attempts": 3}
        config = Config(connect_timeout=timeout, read_timeout=timeout, retries=retries, user_agent_extra="jobmill")
        try:
            session = boto3.session.Session(profile_name=profile, region_name=region)
            self._client: EC2Client = session.client("ec2", endpoint_url=endpoint_url, config=config)
        except (BotoCoreError, ValueError) as error:
            raise SystemUnavailable(f"EC2: {error}") from error
        self.region = self._client.meta.region_name

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def instances(self, record: str, system: str) -> Sequence[Instance]:
        """Return every instance with both tags, ended ones as long as EC2 shows them (an hour); all pages, or none."""
        filters: Any = [
            {"Name": f"tag:{RECORD}", "Values": [_literal(record)]},
            {"Name": f"tag:{SYSTEM}", "Values": [_literal(system)]},
        ]
        found = self._described(filters)
        return [it for it in found if it.ours(record, system)]  # a filter has wildcards; a tag of ours has to be equal

    def by_id(self, ids: Sequence[str]) -> Sequence[Instance]:
        """Return those of these instances that EC2 knows, whatever tags they bear by now."""
        found: list[Instance] = []
        for n in range(0, len(ids), VALUES):
            found += self._described([{"Name": "instance-id", "Values": list(ids[n : n + VALUES])}])
        return found

    def _described(self, filters: Any) -> list[Instance]:
        found: list[Instance] = []
        try:
            for page in self._client.get_paginator("describe_instances").paginate(
                Filters=filters, PaginationConfig={"PageSize": PAGE}
            ):
                for reservation in page["Reservations"]:
                    found += [Instance.of(one) for one in reservation["Instances"]]
        except ClientError as error:
            raise _unavailable("DescribeInstances", error) from error
        except NO_ANSWER as error:
            raise SystemUnavailable(f"EC2: DescribeInstances: {error}") from error
        return found

    def launch(self, request: Mapping[str, Any]) -> Instance:
        """RunInstances; the same request with the same ClientToken again is the same instance.

        Refused: certainly nothing was launched. SystemUnavailable: something may have been.
        """
        try:
            answer = self._client.run_instances(**request)
        except ClientError as error:
            raise _refused(error) from error
        except NO_ANSWER as error:
            raise SystemUnavailable(f"EC2: RunInstances: {error}") from error
        return Instance.of(answer["Instances"][0])

    def terminate(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Ask for the end of each; return what EC2 refused, by id, in its words. Repeat it until `terminated` is seen.

        One that EC2 does not know any more is gone. Together first: one call; apart where that fails, since a single
        protected or unknown one makes EC2 refuse all.
        """
        refused: dict[str, str] = {}
        for some in [ids] if len(ids) == 1 else [ids, *([one] for one in ids)]:
            try:
                self._client.terminate_instances(InstanceIds=list(some))
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if WORTH.get(code) is Worth.THROTTLED or code in PASSING:
                    raise _unavailable("TerminateInstances", error) from error
                if len(some) == 1 and code != "InvalidInstanceID.NotFound":
                    refused[some[0]] = _words(error)
            except NO_ANSWER as error:
                raise SystemUnavailable(f"EC2: TerminateInstances: {error}") from error
            else:
                if len(some) > 1:
                    break
        return refused

    def allowed(self, request: Mapping[str, Any]) -> str | None:
        """Return why a launch like this would be refused, by EC2's own dry run; None: it would not."""
        try:
            self._client.run_instances(**{**request, "DryRun": True})
        except ClientError as error:
            code = error.response["Error"]["Code"]
            return None if code == "DryRunOperation" else _words(error)
        except NO_ANSWER as error:
            raise SystemUnavailable(f"EC2: RunInstances (dry run): {error}") from error
        return None


def _literal(value: str) -> str:
    """Return a filter's value that means itself: ``*``, ``?`` and a backslash have a meaning in filters."""
    return "".join(f"\\{sign}" if sign in "*?\\" else sign for sign in value)


def _unavailable(call: str, error: ClientError) -> SystemUnavailable:
    return SystemUnavailable(f"EC2: {call}: {_words(error)}")


def _words(error: ClientError) -> str:
    """Return EC2's own words, without what only a decoder reads, and what to do."""
    code, message = error.response["Error"]["Code"], LONG.sub("", error.response["Error"]["Message"]).strip()
    return f"{code}: {message}" + (f" ({HINTS[code]})" if code in HINTS else "")


def _refused(error: ClientError) -> Exception:
    """Return Refused where EC2 certainly launched nothing, else SystemUnavailable."""
    code = error.response["Error"]["Code"]
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in WORTH:
        return Refused(WORTH[code], _words(error))
    if code in PASSING or status >= 500:  # it failed half-way, perhaps
        return _unavailable("RunInstances", error)
    return Refused(Worth.WRONG, _words(error))
