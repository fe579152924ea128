"""The errors a user of partwise can meet.

    PartwiseError
    ├── UsageError             a combination of options that means nothing (exit code 2)
    ├── ModelError             the model directory cannot be deployed
    │   ├── UnknownArchitecture
    │   └── DamagedModel       a shard is missing, truncated or contradicts its header
    ├── StoreError             the parameter store cannot be read or written
    │   └── DigestMismatch     bytes differ from those first read
    ├── CompressionError       weights cannot be compressed as asked
    ├── ClusterError           a cluster file or preset that describes no cluster
    ├── PlanError              a plan that does not tile the model, or for another model
    │   └── Infeasible         no plan fits the servers; says what is missing
    │       └── Unheld         it is memory that is missing
    ├── PromptError            a prompt that cannot be run (empty, longer than the context)
    ├── Overloaded             more requests than may wait
    ├── DeploymentClosed       its engine has ended: deploy again
    ├── RemoteError            between two servers
    │   ├── FrameError         bytes that are not a valid frame
    │   ├── CodecError         values that the codec of a link cannot carry
    │   ├── AuthenticationError
    │   ├── LinkClosed         the other side went away
    │   └── DeadlineExceeded   the other side did not answer in time
    ├── PartFailed             a part stopped; carries its name
    │   └── NotFinite          its output held NaN or infinity
    ├── LaunchError            a server could not be started or found
    └── ProbeError             this machine could not be measured

Every message says what happened with the value, the limit, and what to do next.
Foreign errors are translated where they enter, with ``from exc``.
"""


class PartwiseError(Exception):
    """Base of every error that partwise raises on purpose."""


class UsageError(PartwiseError):
    """Options that contradict each other."""


class ModelError(PartwiseError):
    """The model cannot be deployed."""


class UnknownArchitecture(ModelError):
    """No family adapter knows this architecture."""


class DamagedModel(ModelError):
    """Files of the model are missing, truncated or contradict their headers."""


class StoreError(PartwiseError):
    """The parameter store cannot be read or written."""


class DigestMismatch(StoreError):
    """Bytes differ from the digest recorded when they were first read."""


class CompressionError(PartwiseError):
    """Weights cannot be compressed as asked: the message says what would do."""


class ClusterError(PartwiseError):
    """A cluster that cannot be read, or whose hosts, servers and links contradict each other."""


class PlanError(PartwiseError):
    """A plan that cannot be made, does not tile its model, or belongs to another one."""


class Infeasible(PlanError):
    """No plan of the strategy fits the servers. The message is one line: what is missing."""


class Unheld(Infeasible):
    """Parts of the plan lack memory: with more of it, or with less in it, it would fit."""


class PromptError(PartwiseError):
    """A prompt that cannot be run."""


class Overloaded(PartwiseError):
    """More requests than may wait."""


class DeploymentClosed(PartwiseError):
    """The deployment was closed, or its engine ended: it takes no requests any more."""


class RemoteError(PartwiseError):
    """Two servers could not talk to each other."""


class CodecError(RemoteError):
    """NaN, infinity, or a number beyond what the codec of a link can say."""


class FrameError(RemoteError):
    """Received bytes are not a valid frame."""


class AuthenticationError(RemoteError):
    """The other side does not hold the cluster token, or is not who it should be."""


class LinkClosed(RemoteError):
    """The other side closed the link or died."""


class DeadlineExceeded(RemoteError):
    """The other side did not answer before the deadline."""


class PartFailed(PartwiseError):
    """A part stopped. ``part`` is its name."""

    def __init__(self, message: str, *, part: str) -> None:
        super().__init__(message)
        self.part = part


class NotFinite(PartFailed):
    """The output of a part held NaN or infinity."""


class LaunchError(PartwiseError):
    """A server could not be started, found or assigned."""


class ProbeError(PartwiseError):
    """This machine could not be measured."""
