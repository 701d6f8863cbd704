from dataclasses import dataclass
from enum import Enum
from typing import List, Optional


class AckPolicy(str, Enum):
    NONE = "none"


class DeliverPolicy(str, Enum):
    BY_START_SEQUENCE = "by_start_sequence"


@dataclass
class ConsumerConfig:
    deliver_policy: Optional[DeliverPolicy] = None
    opt_start_seq: Optional[int] = None
    ack_policy: Optional[AckPolicy] = None
    filter_subjects: Optional[List[str]] = None
    inactive_threshold: Optional[float] = None
