"""Which row is compared with which."""

from sslkit.aligners.base import Aligner as Aligner
from sslkit.aligners.image_across_images import ImageAcrossImages as ImageAcrossImages
from sslkit.aligners.image_across_views import ImageAcrossViews as ImageAcrossViews
from sslkit.aligners.image_to_patch import ImageToPatch as ImageToPatch
from sslkit.aligners.masked_patches import MaskedPatches as MaskedPatches
from sslkit.aligners.patch_to_image import PatchToImage as PatchToImage
from sslkit.aligners.patch_to_match import PatchToMatch as PatchToMatch
from sslkit.aligners.patch_to_region import PatchToRegion as PatchToRegion
from sslkit.aligners.region_across_images import RegionAcrossImages as RegionAcrossImages
from sslkit.aligners.region_across_views import RegionAcrossViews as RegionAcrossViews
