"""Which row is compared with which."""

from sslkit.aligners.base import Aligner as Aligner
from sslkit.aligners.image_across_images import ImageAcrossImages as ImageAcrossImages
from sslkit.aligners.image_across_views import ImageAcrossViews as ImageAcrossViews
from sslkit.aligners.masked_patches import MaskedPatches as MaskedPatches
from sslkit.aligners.region_across_images import RegionAcrossImages as RegionAcrossImages
from sslkit.aligners.region_across_views import RegionAcrossViews as RegionAcrossViews
