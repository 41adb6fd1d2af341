"""What may go wrong with a peer; the first is reported and the others go on, the second ends the comparison."""

from lookalike.errors import LookalikeError


class PeerFailed(LookalikeError):
    """A system cannot be installed or started, or answered with an error."""

    code = "peer_failed"


class AnswersDiffer(LookalikeError):
    """A system found something else than Lookalike: its times would mean nothing."""

    code = "answers_differ"
