"""Tokens of one image, over its views, to regions."""

from sslkit.clusterers.base import Clusterer as Clusterer
from sslkit.clusterers.grid import Grid as Grid
from sslkit.clusterers.kmeans import KMeans as KMeans
from sslkit.clusterers.sinkhorn import Sinkhorn as Sinkhorn
