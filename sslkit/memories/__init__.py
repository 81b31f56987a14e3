"""What earlier steps saw."""

from sslkit.memories.base import Found as Found
from sslkit.memories.base import Memory as Memory
from sslkit.memories.history import Candidates as Candidates
from sslkit.memories.indexes import IVF as IVF
from sslkit.memories.indexes import Exact as Exact
from sslkit.memories.indexes import Flat as Flat
from sslkit.memories.indexes import Index as Index
from sslkit.memories.per_image import PerImage as PerImage
from sslkit.memories.queue import Queue as Queue
