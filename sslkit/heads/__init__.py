"""Rows of a backbone to scores or embeddings."""

from sslkit.heads.prototypes import Prototypes as Prototypes
