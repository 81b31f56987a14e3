"""What earlier steps saw."""

from sslkit.memories.base import Found as Found
from sslkit.memories.base import Memory as Memory
from sslkit.memories.queue import Queue as Queue
from sslkit.memories.per_image import PerImage as PerImage
