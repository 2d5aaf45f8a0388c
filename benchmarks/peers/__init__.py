"""The programs that jobmill is measured beside, each as its own manual says to run it."""

from __future__ import annotations

from benchmarks.contender import Contender
from benchmarks.peers.hyperqueue import HyperQueue
from benchmarks.peers.xargs import Xargs

PEERS: dict[str, type[Contender[float]]] = {peer.name: peer for peer in (Xargs, HyperQueue)}
