"""Imports every module that registers something, so that gin files can name it."""

import sslkit.aligners
import sslkit.augmenters
import sslkit.backbones
import sslkit.centerings
import sslkit.clusterers
import sslkit.config.helpers
import sslkit.datasets
import sslkit.evaluate
import sslkit.heads
import sslkit.losses
import sslkit.maskings
import sslkit.matchers
import sslkit.memories
import sslkit.method
import sslkit.optimizer
import sslkit.schedules
import sslkit.slurm
import sslkit.train
