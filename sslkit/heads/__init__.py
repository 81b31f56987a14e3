"""Rows of a backbone to scores or embeddings."""

from sslkit.heads.base import Head as Head
from sslkit.heads.projector import Projector as Projector
from sslkit.heads.prototypes import Prototypes as Prototypes
