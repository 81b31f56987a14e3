"""How the rows of a table nearest to a query are found: exactly, or among a part of them."""

from sslkit.memories.indexes.base import Index as Index
from sslkit.memories.indexes.exact import Exact as Exact
from sslkit.memories.indexes.flat import Flat as Flat
from sslkit.memories.indexes.ivf import IVF as IVF
